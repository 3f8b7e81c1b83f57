"""The shapes of the batches that a recipe's programs are given: the one place that knows them."""

from typing import Any, NamedTuple, get_args

import jax
import numpy as np

from rocketjax.bench.machines import Machine
from rocketjax.bench.recipes import encoder_of, sizes_of
from rocketjax.bench.stages import Kind, Trained, trained
from rocketjax.bench.work import forward_flops
from rocketjax.config.schema import Config
from rocketjax.inference.batching import ON_ACCELERATORS
from rocketjax.text.batch import ListBatch, Tokens

KINDS: tuple[Kind, ...] = get_args(Kind)
# Programs that read texts outside training, and of which kind.
KIND_OF: dict[str, Kind] = {"queries": "query", "passages": "passage", "pairs": "pair"}
# Outside training, texts are sorted and padded to the next multiple of 32: by this on average.
ROUNDED_UP = 15.5


class Batch(NamedTuple):
    """What a program is given on every device, as shapes alone, and what a device does with it."""

    arrays: Any  # of all devices: the first axis is split over them
    tokens: float  # real tokens of one device
    flops: float  # matrix products of one device, forward, padding that is computed included


def texts(config: Config, kind: Kind, devices: int) -> Batch:
    """A full batch of one kind of texts, outside training: what `inference.model.apply` takes.

    Texts are sorted by length and padded to the next multiple of 32, at most to their limit; the
    batch is of those that are as long as the longest.
    """
    length, count = limits(config)[kind], config.compute.batch or ON_ACCELERATORS
    flops = forward_flops(encoder_of(config.retriever.weights), length)
    return Batch((_tokens(devices * count, length), None), count * length, count * flops)


def width(config: Config, kind: Kind) -> float:
    """Tokens computed for a text outside training, on average: see `texts`."""
    mean = dict(zip(KINDS, sizes_of(config)[2:], strict=True))[kind]
    return min(mean + ROUNDED_UP, limits(config)[kind])


def lists(config: Config, stage: Trained, devices: int) -> Batch:
    """A step's lists, as `training.step.train_step` takes them."""
    limit, means = limits(config), dict(zip(KINDS, sizes_of(config)[2:], strict=True))
    rows, slots = stage.options.batch, stage.slots
    valid: Any = jax.ShapeDtypeStruct((rows, slots), bool)
    relevant: Any = jax.ShapeDtypeStruct((rows, rows * slots), bool)
    arrays = ListBatch(
        _tokens(rows, limit["query"]),
        _tokens(rows, slots, limit["passage"]),
        _tokens(rows, slots, limit["pair"]),
        valid,
        relevant,
    )
    count = {"query": rows, "passage": rows * slots, "pair": rows * slots}
    encoder = encoder_of(config.retriever.weights)
    tokens = sum(count[kind] * means[kind] for kind in stage.kinds)
    flops = sum(count[kind] * forward_flops(encoder, limit[kind]) for kind in stage.kinds)
    return Batch(arrays, tokens / devices, flops / devices)


def limits(config: Config) -> dict[Kind, int]:
    """Tokens in the longest text of each kind."""
    text, most = config.text, encoder_of(config.retriever.weights).max_length
    lengths = (text.query_length, text.passage_length, text.pair_length)
    return dict(zip(KINDS, (length or most for length in lengths), strict=True))


def chunk_of(config: Config, machine: Machine) -> int:
    """Texts whose activations a device holds in training: the recipe's, or fewer if need be."""
    return min(config.compute.chunk or machine.chunk, machine.chunk or config.compute.chunk)


def shape_of(config: Config, machine: Machine, program: str) -> str:
    """What a program is given, in words: of two equal ones, the table needs one entry."""
    encoder, limit = encoder_of(config.retriever.weights), limits(config)
    model = f"{encoder.num_layers} layers of {encoder.hidden_size}"
    stage = trained(config).get(program)
    if stage:
        lengths = ", ".join(str(limit[kind]) for kind in stage.kinds)
        chunk = chunk_of(config, machine)
        lists = f"{stage.options.batch} lists of {stage.slots}"
        towers = f"{config.retriever.towers} towers, dropout {config.retriever.dropout}"
        return f"{lists}, {lengths} tokens, chunk {chunk}, {model}, {towers}"
    if program == "search":
        corpus = f"{sizes_of(config).passages} passages of {encoder.hidden_size}"
        return f"{corpus} {config.index.dtype}, {searched(config)} best"
    kind = KIND_OF[program]
    return f"{config.compute.batch or ON_ACCELERATORS} texts of {limit[kind]} tokens, {model}"


def searched(config: Config) -> int:
    """Passages that a search asks for."""
    return max(config.evaluate.top_k, config.lists.top_n)


def _tokens(*shape: int) -> Tokens:
    ids: Any = jax.ShapeDtypeStruct(shape, np.int32)
    length: Any = jax.ShapeDtypeStruct(shape[:-1], np.int32)
    return Tokens(ids, ids, length)
