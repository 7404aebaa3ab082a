"""Becomes a command that adopts what its descendants leave behind: run as a script, with the standard library alone.

A process whose parent has ended is handed to the nearest ancestor that asked for such (PR_SET_CHILD_SUBREAPER of
prctl(2)), or to the machine's first process, where nobody knows whose it was. The asking outlives exec, not fork.
"""

from __future__ import annotations

import ctypes
import os
import sys

_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h


def main() -> None:
    """Ask, then become the command of the arguments."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl: PR_SET_CHILD_SUBREAPER is refused")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
