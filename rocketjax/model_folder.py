"""Trained models on disk, and the models a run starts from.

A model's folder is what transformers writes (config.json, model.safetensors, tokenizer) and
rocketjax.json, which says how to use it: kind, towers, pooling, text lengths. Separate towers lie
in the subfolders query/ and passage/.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from rocketjax.batch import Tokens
from rocketjax.batching import BATCHING, ON_ACCELERATORS, Batching
from rocketjax.config import ComputeConfig, RerankerConfig, RetrieverConfig, TextConfig
from rocketjax.data.tokenize import Tokenizer
from rocketjax.errors import InputError, shown
from rocketjax.files import new_folder, read_json, read_object, valid, write_json
from rocketjax.inference import Model, Reranker, Retriever
from rocketjax.models import pretrained
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.conventions import read_conventions
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import Compute, EncoderConfig, Params
from rocketjax.models.head import head_params, head_tensors
from rocketjax.models.pooling import Pooled, read_pooling
from rocketjax.options import validated
from rocketjax.parallel import replicate

SETTINGS = "rocketjax.json"


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Settings:
    """rocketjax.json: how a saved model reads texts and makes vectors."""

    kind: Literal["retriever", "reranker"]
    text: TextConfig
    towers: Literal["shared", "separate"] = "shared"
    pooling: Literal["cls", "mean"] = "cls"
    normalize: bool = False


def make_compute(config: ComputeConfig, dropout: float = 0.0) -> Compute:
    """Settles what is "auto" by the platform at hand.

    Raises:
        InputError: an option that there is not; it is named.
    """
    if not isinstance(config, ComputeConfig):
        raise InputError(f"compute is {shown(config)}; give a rocketjax.ComputeConfig")
    config = validated(ComputeConfig, dataclasses.asdict(config), lambda name: f"compute.{name}")
    on_cpu = jax.default_backend() == "cpu"
    dtype, attention = config.dtype, config.attention
    if dtype == "auto":  # bfloat16 on a CPU is many times slower than float32
        dtype = "float32" if on_cpu else "bfloat16"
    if attention == "auto":
        attention = "plain" if on_cpu else "xla"
    return Compute(
        dtype=jnp.dtype(dtype),
        attention=attention,
        remat=config.remat,
        unroll=config.unroll or (1_000 if on_cpu else 1),
        dropout=dropout,
    )


def make_batching(config: ComputeConfig) -> Batching:
    """How a device is given texts outside training."""
    on_cpu = jax.default_backend() == "cpu"
    usual = BATCHING.size if on_cpu else ON_ACCELERATORS
    skips = laid_out(config)
    # Where padding is computed with, a text padded to twice its length would cost twice as much.
    return Batching(config.batch or usual, skips, coarse=skips and not on_cpu)


def laid_out(config: ComputeConfig) -> bool:
    """Whether tokens are laid end to end, so that padding costs nothing."""
    if config.padding == "auto":
        return jax.default_backend() != "tpu"
    return config.padding == "skip"


def start_retriever(config: RetrieverConfig, text: TextConfig, compute: ComputeConfig) -> Retriever:
    """The retriever a run starts from: pretrained weights in every tower.

    Raises:
        InputError: weights not found, of another architecture or shape, a tokenizer that does not
            fit them, or text lengths beyond their positions.
    """
    folder = pretrained.resolve_weights(config.weights)
    encoder, params, tokenizer = _pretrained_encoder(folder, text)
    # Where both are set, modules.json is not read, and may say what it likes.
    asked = config.pooling == "auto" or config.normalize is None
    told = read_pooling(folder) if asked else None
    pooling, normalize = told or Pooled("cls", False)
    module = BiEncoder(
        encoder,
        make_compute(compute, config.dropout),
        shared=config.towers == "shared",
        pooling=pooling if config.pooling == "auto" else config.pooling,
        normalize=normalize if config.normalize is None else config.normalize,
    )
    params = replicate(_towers(config.towers, params, params))
    return Retriever(module, params, tokenizer, make_batching(compute))


def start_reranker(
    config: RerankerConfig, text: TextConfig, compute: ComputeConfig, seed: int | None
) -> Reranker:
    """The re-ranker a run starts from: pretrained encoder, its head too if the weights have one.

    A checkpoint that is a cross-encoder keeps its pooler; a fresh head has none (RocketQAv2) and is
    drawn from `seed`. Raises what `start_retriever` raises, and where `seed` is None and the
    weights have no head.
    """
    folder = pretrained.resolve_weights(config.weights)
    encoder, params, tokenizer = _pretrained_encoder(folder, text)
    head = head_params(pretrained.load_tensors(folder), encoder, str(folder))
    settled = make_compute(compute, config.dropout)
    module = CrossEncoder(encoder, settled, pooler="pooler" in (head or {}))
    if head is None:
        if seed is None:
            raise InputError(
                f"{folder}: these weights have no head that scores a pair (classifier.weight is "
                "missing), so they are no cross-encoder; a run trains one"
            )
        one = np.ones((1, 1), np.int32)
        tokens = Tokens(one, np.zeros_like(one), one[0])
        head = {"head": jax.jit(module.init)(jax.random.key(seed), tokens)["params"]["head"]}
    params = replicate({"encoder": params, **head})
    return Reranker(module, params, tokenizer, make_batching(compute))


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


def load_pair(folder: str | Path, compute: ComputeConfig = ComputeConfig()) -> Model:  # noqa: B008
    """Opens a trained pair: a run's folder, which holds retriever/ and reranker/.

    Raises:
        InputError: the folder holds no finished run, or a file in it is damaged; it is named.
    """
    folder = Path(folder).expanduser()
    for name in ("retriever", "reranker"):
        if not (folder / name / SETTINGS).is_file():
            raise InputError(
                f"{folder}: no trained model here ({name}/{SETTINGS} is missing); give the folder "
                "of a finished run, such as runs/demo"
            )
    return Model(
        load_retriever(folder / "retriever", compute),
        load_reranker(folder / "reranker", compute),
    )


def _pretrained_encoder(folder: Path, text: TextConfig) -> tuple[EncoderConfig, Params, Tokenizer]:
    config = pretrained.read_encoder_config(folder)
    tokenizer = _fitting_tokenizer(folder, _settled(text, folder, config), config)
    tensors = pretrained.load_tensors(folder)
    return config, pretrained.encoder_params(tensors, config, str(folder)), tokenizer


def _settled(text: TextConfig, folder: Path, config: EncoderConfig) -> TextConfig:
    """Lengths and prompts that were left to the weights, as their files say."""
    told = read_conventions(folder)
    longest = min(told.longest or config.max_length, config.max_length)
    return dataclasses.replace(
        text,
        query_length=text.query_length or longest,
        passage_length=text.passage_length or longest,
        pair_length=text.pair_length or longest,
        query_prompt=told.query_prompt if text.query_prompt is None else text.query_prompt,
        passage_prompt=told.passage_prompt if text.passage_prompt is None else text.passage_prompt,
    )


def _fitting_tokenizer(folder: Path, text: TextConfig, config: EncoderConfig) -> Tokenizer:
    """A tokenizer whose every output the encoder has an embedding for."""
    tokenizer = Tokenizer(folder, text)
    if tokenizer.vocabulary_size > config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary_size} tokens, but config.json says "
            f"vocab_size {config.vocab_size}: tokenizer and weights are not of one model"
        )
    if tokenizer.segments > config.type_vocab_size:
        raise InputError(
            f"{folder}: the tokenizer numbers {tokenizer.segments} segments, but config.json says "
            f"type_vocab_size {config.type_vocab_size}: they are not of one model"
        )
    lengths = dataclasses.asdict(text)
    for name in ("query_length", "passage_length", "pair_length"):
        if lengths[name] > config.max_length:
            raise InputError(
                f"text.{name} is {lengths[name]}, but {folder} has positions for "
                f"{config.max_length} tokens; lower it"
            )
    return tokenizer


def _towers(towers: str, query: Params, passage: Params) -> Params:
    return {"shared": query} if towers == "shared" else {"query": query, "passage": passage}


def _save_retriever(folder: Path, model: Retriever) -> None:
    module = model.module
    towers: Literal["shared", "separate"] = "shared" if module.shared else "separate"
    for name, params in _host(model.params).items():
        subfolder = folder if name == "shared" else folder / name
        subfolder.mkdir(exist_ok=True)
        tensors = pretrained.encoder_tensors(params, module.config)
        pretrained.save_model(subfolder, module.config, tensors, "BertModel")
    model.tokenizer.save(folder)
    _save_settings(
        folder,
        Settings("retriever", model.tokenizer.config, towers, module.pooling, module.normalize),
    )


def _save_reranker(folder: Path, model: Reranker) -> None:
    config = model.module.config
    params = _host(model.params)
    tensors = pretrained.encoder_tensors(
        params["encoder"], config, prefix=f"{pretrained.family(config)}."
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
        pretrained.encoder_params(pretrained.load_tensors(place), config, str(place))
        for place in (places[0], places[-1])
    )
    module = BiEncoder(
        config,
        make_compute(compute),
        shared=settings.towers == "shared",
        pooling=settings.pooling,
        normalize=settings.normalize,
    )
    tokenizer = _fitting_tokenizer(folder, settings.text, config)
    params = replicate(_towers(settings.towers, query, passage))
    return Retriever(module, params, tokenizer, make_batching(compute))


def load_reranker(folder: Path, compute: ComputeConfig) -> Reranker:
    """Opens a re-ranker's own folder. Raises InputError, as `load_pair` does."""
    settings = _read_settings(folder, "reranker")
    return start_reranker(RerankerConfig(str(folder)), settings.text, compute, None)


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
