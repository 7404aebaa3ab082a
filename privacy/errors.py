"""The root of every error that a user's input can cause."""


class InputError(Exception):
    """A mistake in what the user supplied: the message says what, where and what to do.

    The command line prints it as one line on stderr and exits with status 2; it is never a bug.
    """
