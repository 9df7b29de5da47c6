"""The exception for a mistake that the user can mend."""


class UserError(Exception):
    """One line that says what was wrong, where, and what is allowed.

    Every command prints it without a traceback and exits with status 2 (`jaxtickets.cli`).
    """
