"""The error of this package."""


class DataError(Exception):
    """A data set that cannot be used: says what is wrong, in which file or folder, and what would be right."""
