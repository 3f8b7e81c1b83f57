"""Models on disk: folders of a retriever or a re-ranker, opened and saved.

A model folder holds what transformers writes (config.json, model.safetensors, tokenizer) and
rocketjax.json, which says how to use it: kind, towers, pooling, text lengths. Separate towers are
in the subfolders query/ and passage/.
"""

import dataclasses
from collections.abc import Iterator
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
    by_tower,
    fitting_tokenizer,
    make_batching,
    make_compute,
    pretrained_reranker,
    pretrained_retriever,
)
from rocketjax.models import convert, encoder, pretrained
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.encoder import Params
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, read_json, read_object, valid, write_json

SETTINGS = "rocketjax.json"
AS_WEIGHTS = TextConfig(query_length=0, passage_length=0, pair_length=0)  # as their files say


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Settings:
    """rocketjax.json: how a saved model reads texts and pools vectors."""

    kind: Literal["retriever", "reranker"]
    text: TextConfig
    towers: Literal["shared", "separate"] = "shared"
    pooling: Literal["cls", "mean"] = "cls"
    normalize: bool = False


# ---- opening


def open_retriever(folder: str | Path, compute: ComputeConfig = ComputeConfig()) -> Retriever:  # noqa: B008
    """Opens a retriever: of a run, from its own folder, or from plain weights.

    Weights from sentence-transformers keep its pooling, prompts and lengths. Others are pooled by
    their first token and read as many tokens as they have positions for.

    Args:
        folder: a run's, a model's, or weights by folder or hub name.
        compute: how the model runs.

    Raises:
        InputError: there is no retriever, or a file is damaged; the file is named.
    """
    path = _model_folder(folder, "retriever")
    if (path / SETTINGS).is_file():
        return load_retriever(path, compute)
    with _naming_both_readings(folder):
        return pretrained_retriever(RetrieverConfig(str(folder)), AS_WEIGHTS, compute)


def open_reranker(folder: str | Path, compute: ComputeConfig = ComputeConfig()) -> Reranker:  # noqa: B008
    """Opens a re-ranker: of a run, from its own folder, or from a cross-encoder's weights.

    Args:
        folder: a run's, a model's, or weights by folder or hub name.
        compute: how the model runs.

    Raises:
        InputError: there is no re-ranker, the weights have no head or one with several labels, or
            a file is damaged; the file is named.
    """
    path = _model_folder(folder, "reranker")
    if (path / SETTINGS).is_file():
        return load_reranker(path, compute)
    with _naming_both_readings(folder):
        return pretrained_reranker(RerankerConfig(str(folder)), AS_WEIGHTS, compute, seed=None)


def load_retriever(folder: Path, compute: ComputeConfig, dropout: float = 0.0) -> Retriever:
    """Loads a retriever from its own folder.

    Args:
        folder: written by `save_retriever`.
        compute: how the model runs.
        dropout: share of hidden units dropped if it is trained further.

    Raises:
        InputError: the folder holds no retriever, or a file is missing or damaged.
    """
    settings = _read_settings(folder, "retriever")
    shared = settings.towers == "shared"
    subfolders = [folder] if shared else [folder / "query", folder / "passage"]
    config = pretrained.read_encoder_config(subfolders[0])
    query, passage = (
        convert.encoder_params(pretrained.load_tensors(subfolder), config, str(subfolder))
        for subfolder in (subfolders[0], subfolders[-1])
    )
    module = BiEncoder(
        config,
        make_compute(compute, dropout),
        shared=shared,
        pooling=settings.pooling,
        normalize=settings.normalize,
    )
    tokenizer = fitting_tokenizer(folder, settings.text, config)
    params = jax.device_put(by_tower(query, passage, shared))  # not committed to a device
    return Retriever(module, params, tokenizer, make_batching(compute))


def load_reranker(folder: Path, compute: ComputeConfig, dropout: float = 0.0) -> Reranker:
    """Loads a re-ranker from its own folder.

    Args:
        folder: written by `save_reranker`.
        compute: how the model runs.
        dropout: share of hidden units dropped if it is trained further.

    Raises:
        InputError: the folder holds no re-ranker, or a file is missing or damaged.
    """
    settings = _read_settings(folder, "reranker")
    config = RerankerConfig(str(folder), dropout=dropout)
    return pretrained_reranker(config, settings.text, compute, seed=None)


def _model_folder(folder: str | Path, kind: str) -> Path:
    """The subfolder of that kind if this is a run's folder, else the folder itself."""
    folder = Path(folder).expanduser()
    if (folder / kind).is_dir():
        return folder / kind
    if (folder / "retriever").is_dir() or (folder / "reranker").is_dir():
        raise InputError(f"{folder}: a run without {kind}/; if it has not finished, let it finish")
    return folder


@contextmanager
def _naming_both_readings(folder: str | Path) -> Iterator[None]:
    """Adds to an error that the folder is missing: runs/demo could also be a hub name."""
    try:
        yield
    except InputError as error:
        if Path(folder).expanduser().is_dir():
            raise
        raise InputError(
            f"{folder}: no such folder (of a finished run, or of a model); as a hub name: {error}"
        ) from error


def _read_settings(folder: Path, kind: str) -> Settings:
    path = folder / SETTINGS
    settings = valid(Settings, read_json(path), path, "save the model again")
    if 0 in (settings.text.query_length, settings.text.passage_length, settings.text.pair_length):
        raise InputError(f"{path}: damaged: text: a length is 0; save the model again")
    if settings.kind != kind:
        raise InputError(
            f"{path}: kind is {settings.kind!r}, but a {kind} is wanted; give its folder"
        )
    return settings


# ---- saving


def save_retriever(folder: str | Path, model: Retriever) -> None:
    """Writes a retriever's folder, whole or not at all, replacing a retriever already there.

    Raises:
        InputError: the folder holds anything else, or cannot be written.
    """
    folder = _replaceable(folder, "retriever")
    with new_folder(folder) as aside:
        _write_retriever(aside, model)


def save_reranker(folder: str | Path, model: Reranker) -> None:
    """Writes a re-ranker's folder, whole or not at all, replacing a re-ranker already there.

    Raises:
        InputError: the folder holds anything else, or cannot be written.
    """
    folder = _replaceable(folder, "reranker")
    with new_folder(folder) as aside:
        _write_reranker(aside, model)


def _replaceable(folder: str | Path, kind: str) -> Path:
    """The folder, unless saving there would destroy something other than a model of its kind."""
    folder = Path(folder).expanduser()
    settings = folder / SETTINGS
    same_kind = settings.is_file() and read_object(settings, folder).get("kind") == kind
    if not same_kind and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder}: holds something other than a {kind}, which saving would replace; "
            "give a new folder"
        )
    return folder


def _write_retriever(folder: Path, model: Retriever) -> None:
    module = model.module
    for tower, params in _on_host(model.params).items():
        subfolder = folder if tower == "shared" else folder / tower
        subfolder.mkdir(exist_ok=True)
        tensors = convert.encoder_tensors(params, module.config)
        pretrained.save_model(subfolder, module.config, tensors, "BertModel")
    model.tokenizer.save(folder)
    settings = Settings(
        "retriever",
        model.tokenizer.config,
        "shared" if module.shared else "separate",
        module.pooling,
        module.normalize,
    )
    _write_settings(folder, settings)


def _write_reranker(folder: Path, model: Reranker) -> None:
    config = model.module.config
    params = _on_host(model.params)
    prefix = f"{encoder.family(config)}."
    tensors = convert.encoder_tensors(params["encoder"], config, prefix)
    tensors |= convert.head_tensors(params, config)
    pretrained.save_model(folder, config, tensors, "BertForSequenceClassification")
    model.tokenizer.save(folder)
    _write_settings(folder, Settings("reranker", model.tokenizer.config))


def _write_settings(folder: Path, settings: Settings) -> None:
    write_json(folder / SETTINGS, dataclasses.asdict(settings))  # pyright: ignore


def _on_host(params: Params) -> dict[str, Any]:
    return jax.tree.map(np.asarray, params)
