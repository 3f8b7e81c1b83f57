"""Models on disk: folders of a retriever or a re-ranker, opened and saved.

A model folder holds what transformers writes (config.json, model.safetensors, tokenizer) and
rocketjax.json, which says how to use it: kind, towers, pooling, text lengths. Separate towers are
in the subfolders query/ and passage/.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from rocketjax.config.options import validated
from rocketjax.config.schema import (
    ComputeConfig,
    RerankerConfig,
    RetrieverConfig,
    TextConfig,
    TextOptions,
)
from rocketjax.inference.reading import laid_over, tower_folders
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.inference.settings import SETTINGS, Settings, read_settings
from rocketjax.inference.start import (
    by_tower,
    fitting_tokenizer,
    make_batching,
    make_compute,
    pretrained_reranker,
    pretrained_retriever,
)
from rocketjax.models import convert, heads, pretrained
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.families import holds_head
from rocketjax.models.head_modules import write_head
from rocketjax.models.layer import Params
from rocketjax.models.names import NAMES
from rocketjax.runtime.cloud import is_address
from rocketjax.runtime.copies import local
from rocketjax.runtime.errors import InputError, shown
from rocketjax.runtime.files import new_folder, read_object, write_json
from rocketjax.runtime.progress import Say, logged

# ---- opening


def open_retriever(
    folder: str | Path,
    compute: ComputeConfig = ComputeConfig(),  # noqa: B008
    text: TextConfig = TextOptions(),  # noqa: B008
    pooling: Literal["auto", "cls", "mean"] = "auto",
    normalize: bool | None = None,
    say: Say = logged,
    truncate: int | None = None,
) -> Retriever:
    """Opens a retriever: of a run, from its own folder, or from plain weights.

    Weights from sentence-transformers keep its pooling, prompts and lengths. Others are pooled by
    their first token and read as many tokens as they have positions for, unless told otherwise:
    e5 is pooling="mean", normalize=True,
    text=TextOptions(query_prompt="query: ", passage_prompt="passage: ").

    Args:
        folder: a run's, a model's, or weights by folder or hub name.
        compute: how the model runs.
        text: how it reads texts; what is left open is as its folder says.
        pooling: what a text's vector is; auto: as its folder says.
        normalize: whether vectors are scaled to length 1; None: as its folder says.
        say: takes a line for people on each thing that its folder leaves open or that is not
            heeded; they are the retriever's `notes`, too. Default: logged as warnings.
        truncate: how many of a vector's first numbers are kept; 0: all; None: as its folder says.

    Raises:
        InputError: there is no retriever, a file is damaged, or an argument does not fit; the file
            or the argument is named.
    """
    if not isinstance(normalize, bool | None):
        raise InputError(f"normalize is {normalize!r}; give True, False or None")
    given = RetrieverConfig(str(folder), pooling=pooling, normalize=normalize, truncate=truncate)
    validated(RetrieverConfig, dataclasses.asdict(given), str)
    # What is asked of pairs is no part of a retriever, and must not make it another model.
    text = dataclasses.replace(_checked(text), pair_length=0, pair_truncation="auto")
    path = _model_folder(folder, "retriever")
    if (path / SETTINGS).is_file():
        model = load_retriever(path, compute, text=text, given=given)
    else:
        model = pretrained_retriever(dataclasses.replace(given, weights=str(path)), text, compute)
    for line in model.notes:
        say(line)
    return model


def open_reranker(
    folder: str | Path,
    compute: ComputeConfig = ComputeConfig(),  # noqa: B008
    text: TextConfig = TextOptions(),  # noqa: B008
    say: Say = logged,
) -> Reranker:
    """Opens a re-ranker: of a run, from its own folder, or from a cross-encoder's weights.

    Args:
        folder: a run's, a model's, or weights by folder or hub name.
        compute: how the model runs.
        text: how it reads texts; what is left open is as its folder says.
        say: as for `open_retriever`.

    Raises:
        InputError: there is no re-ranker, the weights have no head or one with more than two
            labels, or a file is damaged; the file is named.
    """
    text = _checked(text)
    path = _model_folder(folder, "reranker")
    if (path / SETTINGS).is_file():
        model = load_reranker(path, compute, text=text)
    else:
        model = pretrained_reranker(RerankerConfig(str(path)), text, compute, seed=None)
    for line in model.notes:
        say(line)
    return model


def _checked(text: TextConfig) -> TextConfig:
    if not isinstance(text, TextConfig):
        raise InputError(f"text is {shown(text)}; give a rocketjax.TextOptions")
    return validated(type(text), dataclasses.asdict(text), lambda name: f"text.{name}")


def load_retriever(
    folder: Path,
    compute: ComputeConfig,
    dropout: float = 0.0,
    text: TextConfig = TextOptions(),  # noqa: B008
    given: RetrieverConfig = RetrieverConfig(),  # noqa: B008
) -> Retriever:
    """Loads a retriever from its own folder.

    Args:
        folder: written by `save_retriever`.
        compute: how the model runs.
        dropout: share of hidden units dropped if it is trained further.
        text: how it reads texts; what is left open is as it was saved with.
        given: its pooling, scaling and width; what is left open is as it was saved with.

    Raises:
        InputError: the folder holds no retriever, or a file is missing or damaged.
    """
    settings = _read_settings(folder, "retriever")
    shared = settings.towers == "shared"
    towers = tower_folders(folder)
    config = pretrained.read_encoder_config(towers[0])
    params = [convert.encoder_params(pretrained.load_tensors(t), config, str(t)) for t in towers]
    module = BiEncoder(
        config,
        make_compute(compute, dropout),
        shared=shared,
        pooling=settings.pooling if given.pooling == "auto" else given.pooling,
        normalize=settings.normalize if given.normalize is None else given.normalize,
    )
    settled = laid_over(text, dataclasses.asdict(settings.text))
    tokenizer = fitting_tokenizer(folder, settled, config)
    params = jax.device_put(by_tower(params, shared))  # not committed to a device
    truncate = settings.truncate if given.truncate is None else given.truncate
    return Retriever(module, params, tokenizer, make_batching(compute)).truncated(truncate)


def load_reranker(
    folder: Path,
    compute: ComputeConfig,
    dropout: float = 0.0,
    text: TextConfig = TextOptions(),  # noqa: B008
) -> Reranker:
    """Loads a re-ranker from its own folder.

    Args:
        folder: written by `save_reranker`.
        compute: how the model runs.
        dropout: share of hidden units dropped if it is trained further.
        text: how it reads texts; what is left open is as it was saved with.

    Raises:
        InputError: the folder holds no re-ranker, or a file is missing or damaged.
    """
    _read_settings(folder, "reranker")
    config = RerankerConfig(str(folder), dropout=dropout)
    return pretrained_reranker(config, text, compute, seed=None)


def _model_folder(folder: str | Path, kind: str) -> Path:
    """The subfolder of that kind of a run's folder, else a model's folder, fetched if need be."""
    path = local(folder)
    if (path / kind).is_dir():
        return path / kind
    if (path / "retriever").is_dir() or (path / "reranker").is_dir():
        raise InputError(f"{folder}: a run without {kind}/; if it has not finished, let it finish")
    try:
        return pretrained.resolve_weights(str(folder))
    except InputError as error:
        if is_address(folder) or path.exists():
            raise
        raise InputError(  # runs/demo could be either
            f"{folder}: no such folder (of a finished run, or of a model); as a hub name: {error}"
        ) from error


def _read_settings(folder: Path, kind: str) -> Settings:
    settings, path = read_settings(folder), folder / SETTINGS
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
        pretrained.save_model(subfolder, module.config, tensors, "Model")
    model.tokenizer.save(folder)
    settings = Settings(
        "retriever",
        model.tokenizer.config,
        "shared" if module.shared else "separate",
        module.pooling,
        module.normalize,
        module.truncate,
    )
    _write_settings(folder, settings)


def _write_reranker(folder: Path, model: Reranker) -> None:
    config = model.module.config
    params = _on_host(model.params)
    if holds_head(config):
        prefix = f"{NAMES[config.family].prefixes[0]}."
        tensors = convert.encoder_tensors(params["encoder"], config, prefix)
        tensors |= heads.head_tensors(params, config)
        pretrained.save_model(folder, config, tensors, "ForSequenceClassification")
    else:
        tensors = convert.encoder_tensors(params["encoder"], config)
        pretrained.save_model(folder, config, tensors, "Model")
        write_head(folder, config, params)
    model.tokenizer.save(folder)
    _write_settings(folder, Settings("reranker", model.tokenizer.config))


def _write_settings(folder: Path, settings: Settings) -> None:
    write_json(folder / SETTINGS, dataclasses.asdict(settings))  # pyright: ignore


def _on_host(params: Params) -> dict[str, Any]:
    return jax.tree.map(np.asarray, params)
