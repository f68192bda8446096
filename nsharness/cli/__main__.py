"""``python -I -m nsharness.cli``: the same as the console script."""

from __future__ import annotations

import sys

from nsharness.cli import main

sys.exit(main())
