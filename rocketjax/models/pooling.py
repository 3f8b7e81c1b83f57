"""How a sentence-transformers folder makes one vector of a text: its modules.json."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from rocketjax.errors import InputError
from rocketjax.files import read_json, read_object

_MODES = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}


class Pooled(NamedTuple):
    """What follows the encoder: how a text's hidden states become its vector."""

    pooling: Literal["cls", "mean"]
    normalize: bool


def read_pooling(folder: Path) -> Pooled | None:
    """Reads modules.json and the pooling it names; None where the folder has no modules.json.

    Raises:
        InputError: a file is damaged, or says something that the bi-encoder does not compute.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    modules = read_json(path)
    kinds = [str(m.get("type")) if isinstance(m, dict) else "" for m in _list(modules, path)]
    names = [kind.rpartition(".")[2] for kind in kinds]
    # From version 6 on, of the library's modules; whoever wrote the file, none of it is imported.
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise InputError(
            f"{path}: the modules are {', '.join(names) or 'none'}; supported: Transformer, "
            "Pooling and, where wanted, Normalize"
        )
    place = str(modules[1].get("path"))
    if place not in ("1_Pooling", "1_pooling"):  # never a path out of the folder
        raise InputError(f"{path}: path of Pooling is {place!r}, not '1_Pooling'")
    return Pooled(_mode(folder / place / "config.json", folder), "Normalize" in names)


def _mode(path: Path, root: Path) -> Literal["cls", "mean"]:
    fields = read_object(path, root)
    flags = [name for name, value in fields.items() if name.startswith("pooling_mode_") and value]
    for mode, flag in _MODES.items():
        if flags == [flag] or (not flags and fields.get("pooling_mode") in (mode, [mode])):
            return "cls" if mode == "cls" else "mean"
    shown = ", ".join(flags) or f"pooling_mode {fields.get('pooling_mode')!r}"
    raise InputError(f"{path}: {shown}; supported: one of cls and mean")


def _list(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a list of modules, got {type(value).__name__}")
    return value
