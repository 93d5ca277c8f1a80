"""Errors a user can do something about: printed as one paragraph, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something outside the program went wrong; the message names the cause and what to do."""

    exit_code = 1


class UsageError(UserError):
    """The command was called in a way it does not allow."""

    exit_code = 2


@contextmanager
def reported(*expected: type[Exception]) -> Iterator[None]:
    """Turn the expected exceptions of a block into :class:`UserError`; all others stay what they are.

    For calls whose errors are written for users already: give it only what those calls document.
    """
    try:
        yield
    except expected as error:
        # An error of the system's own would begin with its number.
        of_file = isinstance(error, OSError) and error.strerror and error.filename
        raise UserError(f"{error.filename}: {error.strerror}." if of_file else str(error)) from error
