"""The exceptions that a user sees as one line."""


class UserError(Exception):
    """One line that says what was wrong, where, and what is allowed.

    Every command prints it without a traceback and exits with status 2 (`jaxtickets.cli`).
    """


class DamagedError(UserError):
    """A file that the program has written can't be read, or is not what was written.

    A reader that has something else to go on from catches it, says so, and goes on; every other one lets it end the
    command. The message names the file, what is wrong with it, and what to do.
    """
