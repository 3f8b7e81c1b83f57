"""Bad input: the error that every command reports in one line, with exit status 2, no traceback."""

import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = 80


class InputError(ValueError):
    """Something given to rocketjax is wrong; the message names it and the remedy."""


@contextmanager
def writing(path: Path, remedy: str = "") -> Iterator[None]:
    """Turns a system's refusal to write `path` into bad input, which the user can fix.

    No permission, a full disk, a file where a folder should be.

    Raises:
        InputError: for any OSError of the block; names `path`, and `remedy` if there is one. Or
            `path` is an address, of which pathlib would make a folder called "gs:".
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):
        raise InputError(
            f"{path}: only training, encode and mine write to an address; give a folder"
        )
    try:
        yield
    except OSError as error:
        advice = remedy and f"; {remedy}"
        raise InputError(f"{path}: cannot be written: {error.strerror or error}{advice}") from error


def shown(value: object) -> str:
    """A value of any size and depth, shortened for a message.

    A small file can hold a huge value: in YAML, by aliases.
    """
    return _SHORT.repr(value)
