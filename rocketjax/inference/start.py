"""The models a run starts from: pretrained weights, read with what their folder says of texts.

Options left to "auto", to the weights' files or to the platform are settled here.
"""

import dataclasses
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from rocketjax.config.options import validated
from rocketjax.config.schema import ComputeConfig, RerankerConfig, RetrieverConfig, TextConfig
from rocketjax.inference.batching import BATCHING, ON_ACCELERATORS, Batching
from rocketjax.inference.reading import (
    halved,
    head_notes,
    read_text,
    read_vectors,
    segments,
    tower_folders,
)
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.models import convert, heads, pretrained
from rocketjax.models.attention.attend import Attention
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import Compute, EncoderConfig, Params
from rocketjax.models.head_modules import head_of_modules
from rocketjax.models.sentence_transformers import read_head, transformer_folder
from rocketjax.runtime.devices import refuse_forked
from rocketjax.runtime.errors import InputError, shown
from rocketjax.text import rows
from rocketjax.text.batch import Tokens
from rocketjax.text.tokenizer import Tokenizer


def pretrained_retriever(
    config: RetrieverConfig, text: TextConfig, compute: ComputeConfig
) -> Retriever:
    """The retriever a run starts from: pretrained weights in every tower, or in each its own.

    What `config` and `text` leave open is as the weights' folder says, or [CLS] and unscaled if
    it does not say; `notes` of the retriever name that.

    Raises:
        InputError: weights that are not found or of another architecture or shape, a tokenizer
            that does not fit them, text lengths beyond their positions, or the weights of two
            towers for a shared one.
    """
    root = pretrained.resolve_weights(config.weights)
    folder, towers = transformer_folder(root), tower_folders(root)
    shared = config.towers == "shared"
    if shared and len(towers) > 1:
        raise InputError(
            f"{root}: a retriever with separate towers, and retriever.towers is shared; give "
            "--retriever.towers separate"
        )
    encoder = pretrained.read_encoder_config(towers[0])
    reading = read_text(root, text, encoder, "retriever")
    vectors = read_vectors(root, config, reading, encoder.hidden_size)
    tokenizer = fitting_tokenizer(folder, reading.text, encoder)
    tensors = [pretrained.load_tensors(tower) for tower in towers]
    params = [
        convert.encoder_params(some, encoder, str(tower))
        for some, tower in zip(tensors, towers, strict=True)
    ]
    module = BiEncoder(
        encoder,
        make_compute(compute, config.dropout),
        shared=shared,
        pooling=vectors.pooling,
        normalize=vectors.normalize,
    )
    params = jax.device_put(by_tower(params, shared))
    notes = [*reading.notes, *vectors.notes, *halved(root, tensors[0]), *_platform_notes()]
    if reading.text.title == "segment" and encoder.type_vocab_size > 1:
        notes += segments(folder, tokenizer)
    start = Retriever(module, params, tokenizer, make_batching(compute), tuple(notes))
    return start.truncated(vectors.truncate)


def pretrained_reranker(
    config: RerankerConfig, text: TextConfig, compute: ComputeConfig, seed: int | None
) -> Reranker:
    """The re-ranker a run starts from: a pretrained encoder, with its head if it has one.

    Weights of a cross-encoder keep their pooler; a new head has none (RocketQAv2).

    Args:
        config: which weights, and the dropout of training.
        text: how texts are read.
        compute: how the model runs.
        seed: a missing head is drawn from it; None: the weights must have a head.

    Raises:
        InputError: as `pretrained_retriever` does, a missing head and no `seed`, or a head that
            was trained on another pooling.
    """
    root = pretrained.resolve_weights(config.weights)
    folder = _only_encoder(root)
    encoder = pretrained.read_encoder_config(folder)
    reading = read_text(root, text, encoder, "reranker")
    tokenizer = fitting_tokenizer(folder, reading.text, encoder)
    tensors = pretrained.load_tensors(folder)
    params = convert.encoder_params(tensors, encoder, str(folder))
    modules, head_of = read_head(root), tensors
    if modules:
        encoder, head_of = head_of_modules(modules, encoder)
    head = heads.head_params(head_of, encoder, str(root))
    encoder = _pooled(encoder, config.pooling, root, is_fresh=head is None)
    has_pooler = heads.has_own_pooler(encoder) if head is None else "pooler" in head
    module = CrossEncoder(encoder, make_compute(compute, config.dropout), pooler=has_pooler)
    lone = head_of is tensors and heads.is_lone(tensors, encoder)
    notes = [*reading.notes, *halved(root, tensors), *head_notes(root, head_of, lone)]
    if encoder.type_vocab_size > 1:
        notes += segments(folder, tokenizer)
    if head is None:
        if seed is None:
            raise InputError(
                f"{folder}: these weights have no head that scores a pair (classifier.weight is "
                "missing), so they are not a cross-encoder; give one, or train one with "
                "`python -m rocketjax.train`"
            )
        one = np.ones((1, 1), np.int32)
        tokens = Tokens(one, np.zeros_like(one), one[0])
        drawn = jax.jit(module.init)(jax.random.key(seed), tokens)["params"]
        head = {name: value for name, value in drawn.items() if name != "encoder"}
        notes.append(f"{root}: no head that scores a pair; a fresh one is drawn, by seed {seed}")
    params = jax.device_put({"encoder": params, **head})
    return Reranker(module, params, tokenizer, make_batching(compute), tuple(notes))


def _only_encoder(root: Path) -> Path:
    if len(towers := tower_folders(root)) > 1:
        raise InputError(
            f"{root}: a retriever with separate towers, and a re-ranker starts from one encoder; "
            "export it (python -m rocketjax.export), and give the folder of one of its towers"
        )
    return towers[0]


def _pooled(
    encoder: EncoderConfig, pooling: Literal["auto", "cls", "mean"], root: Path, is_fresh: bool
) -> EncoderConfig:
    """With a head that reads what `reranker.pooling` says; one that was trained stays."""
    if pooling == "auto" or pooling == encoder.head.pooling:
        return encoder
    if not is_fresh:
        raise InputError(
            f"reranker.pooling is {pooling}, but the head of {root} was trained on "
            f"{encoder.head.pooling}; leave it out, or start from weights without a head"
        )
    head = dataclasses.replace(encoder.head, pooling=pooling)
    return dataclasses.replace(encoder, head=head)


def pretrained_tokenizer(
    weights: str, text: TextConfig, kind: Literal["retriever", "reranker"] = "reranker"
) -> Tokenizer:
    """The tokenizer of a model that starts from `weights`, whose tensors are not read.

    Raises:
        InputError: a folder that is not found or without a usable config.json, a tokenizer that
            does not fit it, text lengths beyond its positions, or two towers for a re-ranker.
    """
    root = pretrained.resolve_weights(weights)
    tower = tower_folders(root)[0] if kind == "retriever" else _only_encoder(root)
    encoder = pretrained.read_encoder_config(tower)
    reading = read_text(root, text, encoder, kind)
    return fitting_tokenizer(transformer_folder(root), reading.text, encoder)


def fitting_tokenizer(folder: Path, text: TextConfig, config: EncoderConfig) -> Tokenizer:
    """The tokenizer in a model folder, checked: the encoder has embeddings for all it may return.

    Args:
        folder: of the model.
        text: with every length set.
        config: of the model's encoder.

    Raises:
        InputError: no usable tokenizer, or one with more tokens or segments or texts longer than
            the encoder has embeddings for.
    """
    tokenizer = Tokenizer(folder, text)
    if tokenizer.vocabulary_size > config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary_size} tokens, but config.json says "
            f"vocab_size {config.vocab_size}: tokenizer and weights are from different models"
        )
    if config.type_vocab_size and tokenizer.segments > config.type_vocab_size:
        raise InputError(
            f"{folder}: the tokenizer uses {tokenizer.segments} segments, but config.json says "
            f"type_vocab_size {config.type_vocab_size}: tokenizer and weights are from different "
            "models"
        )
    for name in ("query_length", "passage_length", "pair_length"):
        length = getattr(text, name)
        if length > config.max_length:
            raise InputError(
                f"text.{name} is {length}, but {folder} has positions for {config.max_length} "
                "tokens; lower it"
            )
    return tokenizer


def by_tower(towers: Sequence[Params], shared: bool) -> Params:
    """The parameters of a `BiEncoder` from its towers', or from one for both.

    `shared` ones are stored once.
    """
    return {"shared": towers[0]} if shared else {"query": towers[0], "passage": towers[-1]}


def make_compute(config: ComputeConfig, dropout: float = 0.0, platform: str = "") -> Compute:
    """Settles what `config` leaves to the platform ("auto").

    Args:
        config: how the model runs.
        dropout: of training.
        platform: "cpu", "gpu" or "tpu"; empty: the one that jax runs on.

    Raises:
        InputError: not a ComputeConfig, or a value that an option does not allow (the option is
            named), or this process was forked from one in which jax runs.
    """
    if not isinstance(config, ComputeConfig):
        raise InputError(f"compute is {shown(config)}; give a rocketjax.ComputeConfig")
    config = validated(ComputeConfig, dataclasses.asdict(config), lambda name: f"compute.{name}")
    refuse_forked()
    platform = platform or jax.default_backend()
    on_cpu = platform == "cpu"
    dtype = config.dtype
    if dtype == "auto":  # bfloat16 on a CPU is many times slower than float32
        dtype = "float32" if on_cpu else "bfloat16"
    own: dict[str, Attention] = {"cpu": "plain", "tpu": "xla" if old_libtpu() else "tpu"}
    attention = own.get(platform, "xla") if config.attention == "auto" else config.attention
    bound: dict[Attention, str] = {"tpu": "tpu", "cudnn": "gpu"}
    if bound.get(attention, platform) != platform:
        raise InputError(
            f"compute.attention is {attention}, and this is a {platform}; leave it out"
        )
    if attention == "cudnn" and dtype == "float32":
        raise InputError("compute.attention is cudnn, which takes no compute.dtype float32")
    return Compute(
        dtype=jnp.dtype(dtype),
        attention=attention,
        remat=config.remat,
        unroll=config.unroll or (1_000 if on_cpu else 1),
        dropout=dropout,
        scatter=on_cpu,
    )


def old_libtpu() -> str:
    """A line for people where libtpu does not take our kernels; else an empty one.

    Colab's TPUs had libtpu 0.0.21.1 with jax 0.7.2 in August 2026. It refuses a kernel at compile
    time: "Failed to deserialize the Mosaic module, expected <= 7 but got 8".
    """
    found = version("libtpu") if find_spec("libtpu") else ""
    if not found or tuple(map(int, found.split(".")[:3])) >= (0, 0, 23):
        return ""
    return (
        f"libtpu {found} takes no kernels of jax {jax.__version__}: attention is XLA's, which "
        "moves several times the bytes; pip install libtpu==0.0.23, and start again"
    )


def _platform_notes() -> list[str]:
    """What is to be said of how every model runs here."""
    line = old_libtpu() if jax.default_backend() == "tpu" else ""
    return [line] if line else []


def make_batching(config: ComputeConfig, platform: str = "") -> Batching:
    """How texts are given to a device outside training, on a platform as `make_compute` takes."""
    on_cpu = (platform or jax.default_backend()) == "cpu"
    size = config.batch or (BATCHING.size if on_cpu else ON_ACCELERATORS)
    slots = BATCHING.slots if on_cpu and not config.batch else 0
    return Batching(size, row_widths(config.attention, platform), not on_cpu, slots)


def row_widths(attention: str | None = "auto", platform: str = "") -> tuple[int, ...]:
    """The widths that rows of packed texts may have.

    Args:
        attention: as `compute.attention` names it.
        platform: as `make_compute` takes it.
    """
    on_tpu = (platform or jax.default_backend()) == "tpu"
    return rows.WIDE if on_tpu or attention == "cudnn" else rows.NARROW
