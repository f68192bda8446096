"""``python -I -m nsharness_mocks``: see ``program``."""

from __future__ import annotations

import sys

from nsharness_mocks.program import main

if __name__ == "__main__":
    sys.exit(main())
