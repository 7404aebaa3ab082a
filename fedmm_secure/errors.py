"""One exception class per kind of user mistake."""

from privacy.errors import InputError


class DataError(InputError):
    """A data file, row or column that cannot be used; names the file and, where there is one, the line."""


class ConfigError(InputError):
    """A configuration key that is unknown, ill-typed or inconsistent; names the file and the key."""


class RunDirectoryError(InputError):
    """A run directory that is missing, incomplete or already taken."""


class LostResultError(InputError):
    """A result that was paid for, and whose kept bytes are gone or changed; to draw it anew would be to pay twice."""
