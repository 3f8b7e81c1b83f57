"""The one error of bad input: commands print its message and leave with status 2, no traceback."""

import reprlib


class InputError(ValueError):
    """Something given to rocketjax is wrong; the message names the thing and the remedy."""


def shown(value: object) -> str:
    """A value of any size and depth in a few words, for a message: a small file can hold a huge
    one, in YAML by aliases."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = 80
