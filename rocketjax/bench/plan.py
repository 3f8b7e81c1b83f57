"""python -m rocketjax.bench.plan: hours and memory that a config will need on an accelerator.

A stage's time is its floating-point operations over the rate that the devices are assumed to reach.
Its memory is the compiler's, where docs/tpu.json has the stage's programs for the machine, else a
formula's. docs/plan.md has the formulae, and the results for MS MARCO and Natural Questions.
"""

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from rocketjax.bench import compiled
from rocketjax.bench.machines import MACHINES, MachineName
from rocketjax.bench.recipes import encoder_of, limits, parameters, reader_of, short, sizes_of
from rocketjax.bench.shapes import (
    chunk_of,
    row_width,
    shape_of,
    vector_bytes,
    vector_width,
)
from rocketjax.bench.stages import KINDS, Kind, Trained, Work, trained
from rocketjax.bench.stages import stages as works
from rocketjax.bench.work import forward_flops
from rocketjax.cli.command import command, console
from rocketjax.config.fields import Amount, Count, Positive
from rocketjax.config.options import load
from rocketjax.config.schema import Config
from rocketjax.inference.batching import ON_ACCELERATORS
from rocketjax.models.encoder import EncoderConfig

STATE = 16  # bytes per parameter: itself, its gradient and Adam's two moments, float32
FULL = 0.95  # of the slots of packed rows hold a token (text/rows.py, measured on such lengths)
# What the compiler takes beside what the formula knows: MS MARCO's train steps take 1.09 to 1.17
# times what the formula alone says (the re-ranker's warm-up on a v5e 5.71 GB, not 4.89).
MARGIN = 1.17


@dataclass(frozen=True)
class Plan:
    """Hours, tokens and memory of a config's stages on a machine.

    Utilisation is assumed, not measured (docs/plan.md).

    Example: python -m rocketjax.bench.plan --config nq --machine v5e-8 --chunk 64
    """

    config: str = "configs/msmarco.yaml"
    """Config of the run."""
    machine: MachineName = "v5e-8"
    """Machine that it would run on."""
    passages: Count = 0
    """Passages in the corpus; 0, here and below: the recipe's, where it is known."""
    queries: Count = 0
    """Queries to evaluate on."""
    query_tokens: Amount = 0.0
    """Mean length of a query; those of MS MARCO and NQ were measured on samples."""
    passage_tokens: Amount = 0.0
    """Mean length of a passage, cut as the config says."""
    pair_tokens: Amount = 0.0
    """Mean length of a pair, cut as the config says."""
    utilisation: Positive = 0.3
    """Assumed share of the peak that encoding and training reach, on all slots of packed rows."""
    search_utilisation: Positive = 0.05
    """Assumed share of the peak that exact search reaches; choosing the top k takes most of it."""
    chunk: Count = 0
    """Texts whose activations a device holds; 0: as the config says."""


class Stage(NamedTuple):
    """What a stage takes."""

    name: str
    tokens: float  # real ones
    flops: float  # including those of empty slots
    hours: float
    memory: float  # bytes of a device at its peak
    compiled: bool  # whether that is the compiler's, or a formula's


def _plan(options: Plan) -> None:
    machine = MACHINES[options.machine]
    title = f"{options.config} on {options.machine}, {options.utilisation:.0%} of peak"
    table = Table(title=title, caption="memory: ~ by a formula, others by the compiler")
    table.add_column("stage")
    for name in ("tokens, 10^9", "FLOPs, 10^15", "hours", f"GB of {machine.memory / 1e9:.0f}"):
        table.add_column(name, justify="right")
    planned = list(stages(load(Path(options.config)), options))
    for stage in planned:
        values = (stage.tokens / 1e9, stage.flops / 1e15, stage.hours)
        memory = f"{'' if stage.compiled else '~'}{stage.memory / 1e9:,.2f}"
        table.add_row(stage.name, *(f"{value:,.2f}" for value in values), memory)
    table.add_row("all", "", "", f"{sum(stage.hours for stage in planned):,.2f}", "")
    console.print(table)


def stages(config: Config, plan: Plan) -> Iterator[Stage]:
    """The stages in their order (`bench.stages`)."""
    compute = dataclasses.replace(config.compute, chunk=plan.chunk or config.compute.chunk)
    config, plan = dataclasses.replace(config, compute=compute), _sized(config, plan)
    known, training = compiled.read(compiled.TABLE), trained(config)
    for work in works(config, plan.passages, plan.queries):
        stage = training.get(work.name)
        if stage:
            tokens, flops = _training_cost(config, plan, stage)
            memory = _training_memory(config, plan, stage)
            programs = [work.name]
        else:
            tokens, flops = _running_cost(config, plan, work)
            memory = _running_memory(config, plan, work)
            programs = ["pairs", "search"] if work.searches else ["passages"]
        hours = _hours(plan, flops) + _search_hours(config, plan, work.searches)
        found = _by_compiler(config, plan, programs, known)
        yield Stage(work.name, tokens, flops, hours, found or memory, found is not None)


def _sized(config: Config, plan: Plan) -> Plan:
    """The plan with the recipe's sizes where it gives none."""
    known = sizes_of(config)._asdict()
    return dataclasses.replace(plan, **{k: getattr(plan, k) or v for k, v in known.items()})


def _by_compiler(
    config: Config, plan: Plan, programs: list[str], known: list[compiled.Entry]
) -> float | None:
    """Bytes of a device for programs at work together; None: not all are in the table.

    While pairs are scored, the corpus lies there for search, and the retriever's parameters.
    """
    machine, name = MACHINES[plan.machine], short(plan.config)
    if programs[0] in trained(config) and chunk_of(config, machine) != config.compute.chunk:
        return None  # the table has a smaller chunk, which fits
    found = [
        compiled.find(known, name, plan.machine, program, shape_of(config, machine, program))
        for program in programs
    ]
    if not machine.tpu or not all(found):
        return None
    towers = 4 * _parameters(config, ("query", "passage")) if "search" in programs else 0
    return towers + sum(entry.memory for entry in found if entry)


def _training_cost(config: Config, plan: Plan, stage: Trained) -> tuple[float, float]:
    """Real tokens and operations of a stage that trains.

    Backward is twice forward's work; a chunk is run forward once more.
    """
    lengths, rows = _lengths(plan), stage.options.steps * stage.options.batch
    count = {kind: rows * (1 if kind == "query" else stage.slots) for kind in stage.kinds}
    tokens = sum(count[kind] * lengths[kind] for kind in stage.kinds)
    forward = sum(count[kind] * _forward(config, plan, kind) for kind in stage.kinds)
    return tokens, (4 if _texts(config, plan, stage)[1] else 3) * forward


def _training_memory(config: Config, plan: Plan, stage: Trained) -> float:
    """Bytes of a device, by the formula."""
    texts, _ = _texts(config, plan, stage)
    on_tpu = MACHINES[plan.machine].tpu

    def held_of(kind: Kind) -> float:
        encoder = reader_of(config, kind)
        in_kernel = not (encoder.relative_buckets or encoder.distances)  # XLA's on TPUs, too
        width = 0 if on_tpu and in_kernel else row_width(config, kind, MACHINES[plan.machine])
        return activations(encoder, texts * _lengths(plan)[kind] / FULL, width)

    held = max(map(held_of, stage.kinds))
    return MARGIN * (STATE * _parameters(config, stage.kinds) + held)


def _texts(config: Config, plan: Plan, stage: Trained) -> tuple[float, bool]:
    """Texts whose activations a device holds, and whether they are a chunk of more."""
    on_device = stage.options.batch * stage.slots / MACHINES[plan.machine].count
    chunk = config.compute.chunk
    chunked = bool(chunk) and on_device > chunk
    return (chunk if chunked else on_device), chunked


def _running_cost(config: Config, plan: Plan, work: Work) -> tuple[float, float]:
    """Real tokens and operations of a stage that encodes passages or scores pairs."""
    tokens = work.passages * plan.passage_tokens + work.pairs * plan.pair_tokens
    flops = work.passages * _forward(config, plan, "passage")
    return tokens, flops + work.pairs * _forward(config, plan, "pair")


def _running_memory(config: Config, plan: Plan, work: Work) -> float:
    """Bytes of a device, by the formula; the corpus' vectors lie there where it is searched."""
    texts = config.compute.batch or ON_ACCELERATORS
    if not work.searches:
        return 4 * parameters(reader_of(config, "passage")) + _layer(config, plan, texts, "passage")
    vectors = plan.passages * vector_bytes(config) / MACHINES[plan.machine].count
    return 4 * _parameters(config, KINDS) + vectors + _layer(config, plan, texts, "pair")


def _parameters(config: Config, kinds: tuple[Kind, ...]) -> int:
    """Of the models that read these kinds of texts."""
    total, towers = 0, 2 if config.retriever.towers == "separate" else 1
    if "passage" in kinds:
        total += towers * parameters(encoder_of(config.retriever.weights))
    if "pair" in kinds:
        total += parameters(encoder_of(config.reranker.weights))
    return total


def _search_hours(config: Config, plan: Plan, queries: float) -> float:
    """Of exact search on the devices (--index.kind exact)."""
    flops = 2.0 * queries * plan.passages * vector_width(config)
    return _hours(plan, flops) * plan.utilisation / plan.search_utilisation


def _hours(plan: Plan, flops: float) -> float:
    machine = MACHINES[plan.machine]
    return flops / (machine.count * machine.peak * plan.utilisation) / 3_600


def _lengths(plan: Plan) -> dict[Kind, float]:
    return {"query": plan.query_tokens, "passage": plan.passage_tokens, "pair": plan.pair_tokens}


def _forward(config: Config, plan: Plan, kind: Kind) -> float:
    """Operations of a text, forward: its share of a packed row, empty slots included."""
    width = row_width(config, kind, MACHINES[plan.machine])
    share = min(1.0, _lengths(plan)[kind] / (FULL * width))
    return share * forward_flops(reader_of(config, kind), width)


def activations(encoder: EncoderConfig, slots: float, width: int) -> float:
    """Bytes that backward needs for so many slots of rows, by what jax keeps of each layer.

    16 D values of two bytes a slot, and 11 bytes per pair of slots in a row for each attention
    head; a TPU's kernel keeps nothing of pairs (`width` 0).
    """
    slot = 2 * 16 * encoder.hidden_size + 11 * encoder.num_heads * width
    return encoder.num_layers * slots * slot


def _layer(config: Config, plan: Plan, texts: float, kind: Kind) -> float:
    """Bytes of one layer, forward, of texts as long as they may be.

    16 D values of two bytes a slot, and attention in float32.
    """
    encoder, width = reader_of(config, kind), row_width(config, kind, MACHINES[plan.machine])
    slot = 2 * 16 * encoder.hidden_size + 4 * encoder.num_heads * width
    return texts * limits(config)[kind] * slot


main = command(Plan, _plan, "rocketjax.bench.plan")

if __name__ == "__main__":
    sys.exit(main())
