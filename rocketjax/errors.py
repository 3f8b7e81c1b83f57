"""The one error of bad input: commands print its message and leave with status 2, no traceback."""


class InputError(ValueError):
    """Something given to rocketjax is wrong; the message names the thing and the remedy."""
