"""The fields of a config.json, each checked where it is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rocketjax.models.architecture import Activation
from rocketjax.runtime.errors import InputError

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# More than any model has, so that an absurd config.json fails here and does not fill the memory.
_MOST = 10_000_000
MOST_LAYERS = 1_000


class Fields(NamedTuple):
    """A config.json; what is asked of it is checked, and its errors name file and field."""

    path: Path
    values: Mapping[str, Any]

    def one_of(self, name: str, supported: tuple[Any, ...], default: Any) -> Any:
        """A value that must be one of these."""
        value = self.values.get(name, default)
        # Types are compared too, as 1 == True.
        if not any(type(value) is type(choice) and value == choice for choice in supported):
            raise self.wrong(name, f"supported: {', '.join(map(str, supported))}")
        return value

    def size(self, name: str, default: int | None = None, least: int = 1, most: int = _MOST) -> int:
        """An integer within limits."""
        value = self.values.get(name, default)
        if type(value) is not int or not least <= value <= most:  # isinstance: a bool, too
            raise self.wrong(name, f"it must be an integer from {least} to {most}")
        return value

    def between(self, name: str, default: float, low: float, high: float) -> float:
        """A number between two others."""
        value = self.values.get(name, default)
        if type(value) not in (int, float) or not low < value < high:
            raise self.wrong(name, f"it must be between {low:g} and {high:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or False."""
        return self.one_of(name, (True, False), default)

    def activation(self, name: str, default: str, *more: Activation) -> Activation:
        """A function by its name in transformers; `more`: further ones that are supported here."""
        known: dict[str, Activation] = {**_ACTIVATIONS, **{other: other for other in more}}
        return known[self.one_of(name, tuple(known), default)]

    def wrong(self, name: str, remedy: str) -> InputError:
        """The error of a field that is missing or not as it must be."""
        found = f"is {self.values[name]!r}" if name in self.values else "is missing"
        return InputError(f"{self.path}: {name} {found}; {remedy}")


def activation_name(activation: Activation) -> str:
    """A function's name in transformers."""
    return {"gelu_tanh": "gelu_pytorch_tanh"}.get(activation, activation)
