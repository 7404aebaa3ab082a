"""``fedmm`` in this process."""

import sys
from unittest.mock import patch

from experiments import cli


def call(*arguments):
    """Exit status of the command."""
    with patch.object(sys, "argv", ["fedmm", *map(str, arguments)]):
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code or 0
    return 0


def fedmm(capsys, *arguments):
    """Exit status, stdout, stderr of the command."""
    capsys.readouterr()
    status = call(*arguments)
    found = capsys.readouterr()
    return status, found.out, found.err
