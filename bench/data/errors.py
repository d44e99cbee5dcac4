"""The error of this package."""

from bench.errors import UserError


class DataError(UserError):
    """A data set that cannot be used: says what is wrong, in which file or folder, and what would be right."""
