"""``nsharness schema``: what a profile's file may say, for editors that know JSON Schema."""

from __future__ import annotations

import argparse
import json

from nsharness.policy.schema import json_schema


def schema(_: argparse.Namespace) -> int:
    """Print it."""
    print(json.dumps(json_schema(), indent=2))
    return 0
