"""The one error of bad input: commands print its message and leave with status 2, no traceback."""

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Something given to rocketjax is wrong; the message names the thing and the remedy."""


@contextmanager
def writing(path: Path, remedy: str = "") -> Iterator[None]:
    """What the system refuses is the user's to mend: no permission, a full disk, a file above.

    Raises:
        InputError: for any OSError of the block; it names `path`, and `remedy` if there is one.
    """
    try:
        yield
    except OSError as error:
        advice = remedy and f"; {remedy}"
        raise InputError(f"{path}: cannot be written: {error.strerror or error}{advice}") from error


def shown(value: object) -> str:
    """A value of any size and depth in a few words, for a message: a small file can hold a huge
    one, in YAML by aliases."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()


_SHORT.maxlevel = 2


_SHORT.maxstring = _SHORT.maxother = 80
