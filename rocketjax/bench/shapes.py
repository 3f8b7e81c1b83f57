"""The shapes of the batches that a recipe's programs are given: the one place that knows them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from rocketjax.bench.machines import Machine
from rocketjax.bench.recipes import BERT_BASE, encoder_of, limits, reader_of, sizes_of
from rocketjax.bench.stages import KINDS, Kind, Trained, trained
from rocketjax.bench.work import forward_flops
from rocketjax.config.schema import Config
from rocketjax.inference.batching import ON_ACCELERATORS, plan
from rocketjax.inference.start import make_batching, row_widths
from rocketjax.retrieval.quantised import code_width, is_quantised
from rocketjax.text.batch import ListBatch, Rows
from rocketjax.text.chunks import SAMPLE, dealt, shape_for
from rocketjax.text.rows import fitting

# Programs that read texts outside training, and of which kind.
KIND_OF: dict[str, Kind] = {"queries": "query", "passages": "passage", "pairs": "pair"}
SPREAD = 0.35  # of the logarithm of texts' lengths


class Batch(NamedTuple):
    """What a program is given on every device, as shapes alone, and what a device does with it."""

    arrays: Any  # of all devices: the first axis is split over them
    tokens: float  # real tokens of one device
    flops: float  # matrix products of one device, forward, empty slots included


def texts(config: Config, kind: Kind, machine: Machine, devices: int) -> Batch:
    """A full batch of one kind of texts, outside training: what `inference.model.apply` takes.

    Packed as `inference.batching` packs them on such a machine.
    """
    limit, batching = limits(config)[kind], make_batching(config.compute, machine.platform)
    some = lengths(config, kind, 2 * batching.size * limit // min(means(config)[kind], limit))
    unit = plan(some, limit, batching, steady=True)[0]
    shape = _rows(devices, *unit.shape)
    return Batch(shape, sum(some[i] for i in unit.texts), _flops(config, kind, shape, devices))


def lists(config: Config, machine: Machine, stage: Trained) -> Batch:
    """A step's lists, as `training.loader` packs them for `training.step.train_step`."""
    count, slots = stage.options.batch, stage.slots
    chunk = chunk_of(config, machine)
    packed: dict[Kind, Rows] = {
        kind: _packed(config, kind, (count, 1 if kind == "query" else slots), chunk, machine)
        for kind in KINDS
    }
    valid: Any = jax.ShapeDtypeStruct((count, slots), bool)
    relevant: Any = jax.ShapeDtypeStruct((count, count * slots), bool)
    place: Any = jax.ShapeDtypeStruct((count,), np.int32) if machine.count > 1 else None
    query, passage, pair = (packed[kind] for kind in KINDS)
    arrays = ListBatch(query, passage, pair, valid, relevant, place=place)
    own = {kind: count * (1 if kind == "query" else slots) // machine.count for kind in KINDS}
    tokens = sum(sum(lengths(config, kind, own[kind])) for kind in stage.kinds)
    flops = sum(_flops(config, kind, packed[kind], machine.count) for kind in stage.kinds)
    return Batch(arrays, tokens, flops)


def lengths(config: Config, kind: Kind, count: float) -> list[int]:
    """Lengths of texts as they may come: of the recipe's mean, in an order drawn once."""
    mean, limit = means(config)[kind], limits(config)[kind]
    if mean >= limit:
        return [limit] * int(count)
    draw = np.random.default_rng(0).lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, int(count))
    return np.clip(draw, 4, limit).round().astype(int).tolist()


def means(config: Config) -> dict[Kind, float]:
    """Tokens of a text of each kind, on average."""
    return dict(zip(KINDS, sizes_of(config)[2:], strict=True))


def row_width(config: Config, kind: Kind, machine: Machine) -> int:
    """The least width that rows of these texts have on a machine."""
    return fitting(limits(config)[kind], _widths(config, machine))


def _widths(config: Config, machine: Machine) -> tuple[int, ...]:
    return row_widths(config.compute.attention, machine.platform)


def _packed(
    config: Config, kind: Kind, lists: tuple[int, int], chunk: int, machine: Machine
) -> Rows:
    """A step's texts of one kind, in the shape that `Collator.fitted` would choose.

    Args:
        config: has their lengths.
        kind: of the texts.
        lists: how many, and texts of this kind in each.
        chunk: as `shape_for` takes it.
        machine: its devices share the lists as `dealt` says. Queries come along as they happen to.
    """
    (count, slots), devices = lists, machine.count
    own, deals = count * slots // devices, kind != "query"
    steps: list[list[int]] = []
    for step in np.reshape(lengths(config, kind, SAMPLE * count * slots), (SAMPLE, count, slots)):
        order = dealt(step.sum(axis=1).tolist(), devices) if deals else range(count)
        steps += step[list(order)].reshape(devices, own).tolist()
    shape = shape_for(steps, chunk, _widths(config, machine), devices if deals else 1)
    return _rows(devices * shape.chunks, shape.rows, shape.width, shape.texts)


def _rows(parts: int, rows: int, width: int, texts: int) -> Rows:
    slots: Any = jax.ShapeDtypeStruct((parts, rows, width), np.int32)
    first: Any = jax.ShapeDtypeStruct((parts, texts), np.int32)
    return Rows(slots, slots, slots, slots, first)


def _flops(config: Config, kind: Kind, packed: Rows, devices: int) -> float:
    """Of one device, forward: a row costs what a text of its width does."""
    parts, rows, width = packed.ids.shape
    return parts // devices * rows * forward_flops(reader_of(config, kind), width)


def chunk_of(config: Config, machine: Machine) -> int:
    """Texts whose activations a device holds in training: the recipe's, or fewer if need be.

    By the larger of both models, since a run has one chunk.
    """
    encoders = [reader_of(config, kind) for kind in KINDS]
    size = max(encoder.num_layers * encoder.hidden_size for encoder in encoders)
    most = machine.chunk * BERT_BASE.num_layers * BERT_BASE.hidden_size // size
    return min(config.compute.chunk or most, most or config.compute.chunk)


def shape_of(config: Config, machine: Machine, program: str) -> str:
    """What a program is given, in words: of two equal ones, the table needs one entry."""
    limit, stage = limits(config), trained(config).get(program)
    if stage:
        most = ", ".join(str(limit[kind]) for kind in stage.kinds)
        chunk = chunk_of(config, machine)
        batch = f"{stage.options.batch} lists of {stage.slots}"
        models = [config.reranker if kind == "pair" else config.retriever for kind in stage.kinds]
        dropout = _each(str(model.dropout) for model in models)
        towers = f"{config.retriever.towers} towers, dropout {dropout}"
        return f"{batch}, {most} tokens, chunk {chunk}, {_layers(config, *stage.kinds)}, {towers}"
    if program == "search":
        corpus = f"{sizes_of(config).passages} passages of {vector_width(config)}"
        return f"{corpus} {config.index.dtype}, {searched(config)} best"
    kind = KIND_OF[program]
    texts = f"{config.compute.batch or ON_ACCELERATORS} texts of {limit[kind]} tokens"
    return f"{texts}, {_layers(config, kind)}"


def _layers(config: Config, *kinds: Kind) -> str:
    encoders = [reader_of(config, kind) for kind in kinds]
    return _each(f"{encoder.num_layers} layers of {encoder.hidden_size}" for encoder in encoders)


def _each(values: Iterable[str]) -> str:
    """Each value once, in their order."""
    return " and ".join(dict.fromkeys(values))


def vector_width(config: Config) -> int:
    """Numbers of a passage's vector."""
    return config.retriever.truncate or encoder_of(config.retriever.weights).hidden_size


def vector_bytes(config: Config) -> int:
    """What a passage's vector takes on a device, scale included."""
    width, dtype = vector_width(config), config.index.dtype
    if is_quantised(dtype):
        return code_width(width, dtype) + 4
    return width * (4 if dtype == "float32" else 2)


def searched(config: Config) -> int:
    """Passages that a search asks for, of codes those that are scored again."""
    again = config.index.rescore if is_quantised(config.index.dtype) else 1
    return again * max(config.evaluate.top_k, config.lists.top_n)
