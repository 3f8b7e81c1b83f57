"""The models a run starts from: pretrained weights, settled options, a tokenizer that fits."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rocketjax.config.options import validated
from rocketjax.config.schema import ComputeConfig, RerankerConfig, RetrieverConfig, TextConfig
from rocketjax.inference.batching import BATCHING, ON_ACCELERATORS, Batching
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.models import convert, pretrained
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.convert import head_params
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import Compute, EncoderConfig, Params
from rocketjax.models.sentence_transformers import Pooled, read_conventions, read_pooling
from rocketjax.runtime.devices import replicate
from rocketjax.runtime.errors import InputError, shown
from rocketjax.text.batch import Tokens
from rocketjax.text.tokenizer import Tokenizer


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


def pretrained_retriever(
    config: RetrieverConfig, text: TextConfig, compute: ComputeConfig
) -> Retriever:
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
    params = replicate(towers(config.towers, params, params))
    return Retriever(module, params, tokenizer, make_batching(compute))


def pretrained_reranker(
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


def _pretrained_encoder(folder: Path, text: TextConfig) -> tuple[EncoderConfig, Params, Tokenizer]:
    config = pretrained.read_encoder_config(folder)
    tokenizer = fitting_tokenizer(folder, _settled(text, folder, config), config)
    tensors = pretrained.load_tensors(folder)
    return config, convert.encoder_params(tensors, config, str(folder)), tokenizer


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


def fitting_tokenizer(folder: Path, text: TextConfig, config: EncoderConfig) -> Tokenizer:
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


def towers(towers: str, query: Params, passage: Params) -> Params:
    """Parameters by tower."""
    return {"shared": query} if towers == "shared" else {"query": query, "passage": passage}
