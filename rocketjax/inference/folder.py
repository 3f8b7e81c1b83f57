"""Models on disk: a retriever's or re-ranker's own folder, written and opened.

A model's folder is what transformers writes (config.json, model.safetensors, tokenizer) and
rocketjax.json, which says how to use it: kind, towers, pooling, text lengths. Separate towers lie
in the subfolders query/ and passage/.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pydantic

from rocketjax.config.schema import (
    ComputeConfig,
    RerankerConfig,
    RetrieverConfig,
    TextConfig,
)
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.inference.start import (
    fitting_tokenizer,
    make_batching,
    make_compute,
    pretrained_reranker,
    pretrained_retriever,
    towers,
)
from rocketjax.models import convert, encoder, pretrained
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.convert import head_tensors
from rocketjax.models.encoder import Params
from rocketjax.runtime.devices import replicate
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, read_json, read_object, valid, write_json

SETTINGS = "rocketjax.json"


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Settings:
    """rocketjax.json: how a saved model reads texts and makes vectors."""

    kind: Literal["retriever", "reranker"]
    text: TextConfig
    towers: Literal["shared", "separate"] = "shared"
    pooling: Literal["cls", "mean"] = "cls"
    normalize: bool = False


def save_retriever(folder: str | Path, model: Retriever) -> None:
    """Writes a retriever's folder, whole or not at all; one that is there is replaced.

    Raises:
        InputError: the folder holds anything else, or cannot be written.
    """
    folder = _replaceable(folder, "retriever")
    with new_folder(folder) as aside:
        _save_retriever(aside, model)


def save_reranker(folder: str | Path, model: Reranker) -> None:
    """Writes a re-ranker's folder, whole or not at all; one that is there is replaced.

    Raises:
        InputError: the folder holds anything else, or cannot be written.
    """
    folder = _replaceable(folder, "reranker")
    with new_folder(folder) as aside:
        _save_reranker(aside, model)


def _replaceable(folder: str | Path, kind: str) -> Path:
    folder = Path(folder).expanduser()
    settings = folder / SETTINGS
    ours = settings.is_file() and read_object(settings, folder).get("kind") == kind
    if not ours and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder}: holds something else than a {kind}, which saving would replace; "
            "give a new folder"
        )
    return folder


def _save_retriever(folder: Path, model: Retriever) -> None:
    module = model.module
    towers: Literal["shared", "separate"] = "shared" if module.shared else "separate"
    for name, params in _host(model.params).items():
        subfolder = folder if name == "shared" else folder / name
        subfolder.mkdir(exist_ok=True)
        tensors = convert.encoder_tensors(params, module.config)
        pretrained.save_model(subfolder, module.config, tensors, "BertModel")
    model.tokenizer.save(folder)
    _save_settings(
        folder,
        Settings("retriever", model.tokenizer.config, towers, module.pooling, module.normalize),
    )


def _save_reranker(folder: Path, model: Reranker) -> None:
    config = model.module.config
    params = _host(model.params)
    tensors = convert.encoder_tensors(
        params["encoder"], config, prefix=f"{encoder.family(config)}."
    ) | head_tensors(params, config)
    pretrained.save_model(folder, config, tensors, "BertForSequenceClassification")
    model.tokenizer.save(folder)
    _save_settings(folder, Settings("reranker", model.tokenizer.config))


def load_retriever(folder: Path, compute: ComputeConfig) -> Retriever:
    """Opens a retriever's own folder. Raises InputError, as `load_pair` does."""
    settings = _read_settings(folder, "retriever")
    places = [folder] if settings.towers == "shared" else [folder / "query", folder / "passage"]
    config = pretrained.read_encoder_config(places[0])
    query, passage = (
        convert.encoder_params(pretrained.load_tensors(place), config, str(place))
        for place in (places[0], places[-1])
    )
    module = BiEncoder(
        config,
        make_compute(compute),
        shared=settings.towers == "shared",
        pooling=settings.pooling,
        normalize=settings.normalize,
    )
    tokenizer = fitting_tokenizer(folder, settings.text, config)
    params = replicate(towers(settings.towers, query, passage))
    return Retriever(module, params, tokenizer, make_batching(compute))


def load_reranker(folder: Path, compute: ComputeConfig) -> Reranker:
    """Opens a re-ranker's own folder. Raises InputError, as `load_pair` does."""
    settings = _read_settings(folder, "reranker")
    return pretrained_reranker(RerankerConfig(str(folder)), settings.text, compute, None)


def _save_settings(folder: Path, settings: Settings) -> None:
    write_json(folder / SETTINGS, dataclasses.asdict(settings))  # pyright: ignore


def _read_settings(folder: Path, kind: str) -> Settings:
    path = folder / SETTINGS
    settings = valid(Settings, read_json(path), path, "save the model anew")
    if 0 in (settings.text.query_length, settings.text.passage_length, settings.text.pair_length):
        raise InputError(f"{path}: damaged: text: a length is 0; a saved model says its lengths")
    if settings.kind != kind:
        raise InputError(f"{path}: kind is {settings.kind!r}, but a {kind} is wanted here")
    return settings


def _host(params: Params) -> Mapping[str, Any]:
    return jax.tree.map(np.asarray, params)


AS_WEIGHTS = TextConfig(query_length=0, passage_length=0, pair_length=0)


def open_retriever(folder: str | Path, compute: ComputeConfig = ComputeConfig()) -> Retriever:  # noqa: B008
    """A retriever: of a run, of its own folder, or plain weights by folder or hub name.

    Weights from sentence-transformers keep its pooling, prompts and lengths; of others the first
    token is taken, as many tokens as they have positions for.

    Raises:
        InputError: nothing of that kind is there, or a file is damaged; it is named.
    """
    inside = _inside(folder, "retriever")
    if (inside / SETTINGS).is_file():
        return load_retriever(inside, compute)
    with _unless_missing(folder):
        return pretrained_retriever(RetrieverConfig(str(folder)), AS_WEIGHTS, compute)


def open_reranker(folder: str | Path, compute: ComputeConfig = ComputeConfig()) -> Reranker:  # noqa: B008
    """A re-ranker: of a run, of its own folder, or a cross-encoder by folder or hub name.

    Raises:
        InputError: nothing of that kind is there, weights without a head that gives one score, or
            a file is damaged; it is named.
    """
    inside = _inside(folder, "reranker")
    if (inside / SETTINGS).is_file():
        return load_reranker(inside, compute)
    with _unless_missing(folder):
        return pretrained_reranker(RerankerConfig(str(folder)), AS_WEIGHTS, compute, None)


@contextmanager
def _unless_missing(folder: str | Path) -> Iterator[None]:
    """runs/demo is a folder to most, and could be a hub name: where it is neither, say so."""
    try:
        yield
    except InputError as error:
        if Path(folder).expanduser().is_dir():
            raise
        raise InputError(
            f"{folder}: no such folder (of a finished run, or of a model); as a hub name: {error}"
        ) from error


def _inside(folder: str | Path, kind: str) -> Path:
    """A run holds its models in subfolders."""
    folder = Path(folder).expanduser()
    if (folder / kind).is_dir():
        return folder / kind
    if (folder / "retriever").is_dir() or (folder / "reranker").is_dir():
        raise InputError(f"{folder}: a run that has no {kind}/ (yet); let it finish")
    return folder
