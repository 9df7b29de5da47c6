"""The exceptions that a user sees as one line."""


def printable(text: object) -> str:
    """A text on one line that any terminal can show: escape sequences, line breaks and the like are escaped.

    Names of files, and texts in files that somebody else has written, may hold anything.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


class UserError(Exception):
    """One line that says what was wrong, where, and what is allowed; `printable`, whatever it quotes.

    Every command prints it without a traceback and exits with its `status` (`jaxtickets.ending`): 2, a mistake.
    """

    status = 2

    def __str__(self) -> str:
        return printable(super().__str__())


class DamagedError(UserError):
    """A file that the program has written can't be read, or is not what was written.

    A reader that has something else to go on from catches it, says so, and goes on; every other one lets it end the
    command. The message names the file, what is wrong with it, and what to do.
    """


class DivergenceError(UserError):
    """A training has diverged and the run stops: no mistake in the command, and the same command would do it again."""

    status = 3
