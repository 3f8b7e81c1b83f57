"""rocketjax.json: how a model that rocketjax saved reads texts and pools vectors."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from rocketjax.config.schema import TextConfig
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_json, valid

SETTINGS = "rocketjax.json"


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Settings:
    """rocketjax.json: how a saved model reads texts and pools vectors."""

    kind: Literal["retriever", "reranker"]
    text: TextConfig
    towers: Literal["shared", "separate"] = "shared"
    pooling: Literal["cls", "mean"] = "cls"
    normalize: bool = False
    truncate: Annotated[int, pydantic.Field(ge=0)] = 0


def read_settings(folder: Path) -> Settings:
    """Reads a folder's rocketjax.json.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / SETTINGS
    settings = valid(Settings, read_json(path), path, "save the model again")
    if 0 in (settings.text.query_length, settings.text.passage_length, settings.text.pair_length):
        raise InputError(f"{path}: damaged: text: a length is 0; save the model again")
    return settings
