"""What every command-line tool shares."""

from __future__ import annotations

import sys
from collections.abc import Callable

from detection.errors import UserError


def run(main: Callable[[], int]) -> int:
    """Runs a tool and returns its exit status: a `UserError` is one message on stderr and status 1, Ctrl-C is status
    130."""
    try:
        return main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
