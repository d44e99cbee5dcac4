"""The root of every error that a user can mend."""


class UserError(Exception):
    """Something that was asked for cannot be done. The message says what, where, and what would be right."""
