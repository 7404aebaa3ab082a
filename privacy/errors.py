"""The roots of the errors that end a command with one line; anything else is a bug."""


class InputError(Exception):
    """A mistake in what the user supplied: the message says what, where and what to do.

    The command line prints it as one line on stderr and exits with status 2; it is never a bug.
    """


class StoppedError(Exception):
    """A run that must not go on: a refused release, a forged message, a market that is lost. Nobody's typing mistake.

    The command line prints it as one line on stderr and exits with status 1.
    """
