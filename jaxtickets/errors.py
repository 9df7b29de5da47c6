"""The one exception for a mistake that the user can mend."""


class UserError(Exception):
    """What was wrong, where, and what is allowed, in one line.

    `main.py` and `launch/` print it without a traceback and exit with status 2.
    """
