"""python -m rocketjax.bench.plan: what a run of a config is going to take on an accelerator.

Every stage is its floating-point operations over what the devices are assumed to reach. Formulae,
and what comes out for MS MARCO and Natural Questions, are in docs/plan.md.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from rich.table import Table

from rocketjax.bench.work import forward_flops
from rocketjax.cli.command import console, parse_options, run_command
from rocketjax.config.fields import Count, Positive, Size
from rocketjax.config.options import load
from rocketjax.config.schema import Config, StageConfig
from rocketjax.inference.batching import ON_ACCELERATORS
from rocketjax.mining.augment import lists_per_positive
from rocketjax.models.encoder import EncoderConfig

BERT_BASE = EncoderConfig(30_522, 768, 12, 12, 3_072, 512)


PARAMETERS = 108_891_648  # of BERT base without its pooler


STATE = 16  # bytes of a parameter: itself, its gradient and Adam's two moments, float32


class Devices(NamedTuple):
    """What a machine has; peak: dense bfloat16 operations a second of a device."""

    count: int
    peak: float
    memory: float  # bytes of a device
    tpu: bool


MACHINES = {  # by their makers' data sheets; a v4-32 has 32 cores on 16 chips
    "v5e-8": Devices(8, 197e12, 16e9, tpu=True),
    "v4-32": Devices(16, 275e12, 32e9, tpu=True),
    "h100": Devices(1, 989e12, 80e9, tpu=False),
}


# Outside training texts are sorted, and padded to the next multiple of 32: half of one on average.
ROUNDED_UP = 15.5


@dataclass(frozen=True)
class Plan:
    """Hours, tokens and memory of a config's stages on a machine, with models of BERT base's shape.

    Utilisation is assumed, not measured (docs/plan.md).

    Example: python -m rocketjax.bench.plan --config configs/nq.yaml --passages 21015324 --queries
    8757 --query-tokens 11.7 --passage-tokens 127.3 --pair-tokens 147.6
    """

    config: str = "configs/msmarco.yaml"
    """The run's."""
    machine: Literal["v5e-8", "v4-32", "h100"] = "v5e-8"
    """Where it is to run."""
    passages: Size = 8_841_823
    """In the corpus."""
    queries: Size = 6_980
    """To evaluate on."""
    query_tokens: Positive = 9.0
    """Mean length; here and below, the default is what MS MARCO's samples measure."""
    passage_tokens: Positive = 70.5
    """Mean length, cut as the config says."""
    pair_tokens: Positive = 79.1
    """Mean length, cut as the config says."""
    utilisation: Positive = 0.3
    """Assumed share of the peak that encoding and training reach, on real tokens; where padding is
    computed with, as on a TPU, on all."""
    search_utilisation: Positive = 0.05
    """Assumed share of the peak that exact search reaches: choosing the best k takes its time."""
    chunk: Count = 0
    """Texts a device holds the activations of; 0: as the config says."""


class Stage(NamedTuple):
    """What a stage does.

    Tokens are real ones, operations those of padding, too, where that is computed with; memory is
    bytes of a device at its peak.
    """

    name: str
    tokens: float
    flops: float
    hours: float
    memory: float


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command(lambda: _plan(parse_options(Plan, args, "rocketjax.bench.plan")))


def _plan(options: Plan) -> None:
    machine = MACHINES[options.machine]
    table = Table(title=f"{options.config} on {options.machine}, {options.utilisation:.0%} of peak")
    table.add_column("stage")
    for name in ("tokens, 10^9", "FLOPs, 10^15", "hours", f"GB of {machine.memory / 1e9:.0f}"):
        table.add_column(name, justify="right")
    planned = list(stages(load(Path(options.config)), options))
    for stage in planned:
        values = (stage.tokens / 1e9, stage.flops / 1e15, stage.hours, stage.memory / 1e9)
        table.add_row(stage.name, *(f"{value:,.2f}" for value in values))
    table.add_row("all", "", "", f"{sum(stage.hours for stage in planned):,.2f}", "")
    console.print(table)


def stages(config: Config, plan: Plan) -> Iterator[Stage]:
    """The stages in their order. Mining for the re-ranker's warm-up is retrieval alone.

    With `lists.refresh` the corpus is encoded once more for every further round.
    """
    slots, lists = config.lists.length, config.lists
    scored = (lists.scored or lists.top_n) + 1 if lists.denoised else 0
    warm, joint = config.reranker_warmup, config.joint
    mined = joint.steps * joint.batch / sum(lists_per_positive(lists))
    corpus = _corpus(config, plan)
    judged = _scored("evaluate", config, plan, plan.queries * config.evaluate.rerank_depth)
    judged = judged._replace(hours=judged.hours + _searched(plan, plan.queries))
    if config.evaluate.start:
        yield _both("start", corpus, judged)
    yield _trained("warm-retriever", config, plan, config.retriever_warmup, 1, ("query", "passage"))
    if config.retriever_warmup.steps or not config.evaluate.start:  # else the start's index serves
        yield corpus._replace(name="encode")
    searched = _searched(plan, warm.steps * warm.batch)
    trained = _trained("warm-reranker", config, plan, warm, slots, ("pair",))
    yield trained._replace(hours=trained.hours + searched)
    pairs = _scored("mine", config, plan, mined * scored)
    yield pairs._replace(hours=pairs.hours + _searched(plan, mined))
    for _ in range(lists.refresh or joint.steps, joint.steps, lists.refresh or 1):
        yield corpus._replace(name="encode anew")
    yield _trained("joint", config, plan, joint, slots, ("query", "passage", "pair"))
    yield corpus._replace(name="index")
    yield judged


def _both(name: str, first: Stage, second: Stage) -> Stage:
    """One stage that does the work of two, one after the other."""
    done = (a + b for a, b in zip(first[1:4], second[1:4], strict=True))
    return Stage(name, *done, memory=max(first.memory, second.memory))


def _trained(
    name: str, config: Config, plan: Plan, stage: StageConfig, slots: int, texts: Sequence[str]
) -> Stage:
    """Backward is twice forward's work; a chunk is run forward once more.

    A padded batch is as wide as its longest text, and among hundreds there is one of the limit.
    """
    machine = MACHINES[plan.machine]
    on_device = stage.batch * slots / machine.count
    chunk = plan.chunk or config.compute.chunk
    chunked = bool(chunk) and on_device > chunk
    count = {"query": 1, "passage": slots, "pair": slots}
    lengths, limits = _lengths(plan), _limits(config)
    widths = limits if _pads(config, plan) else lengths
    rows = stage.steps * stage.batch
    tokens = sum(rows * count[text] * lengths[text] for text in texts)
    forward = sum(rows * count[text] * forward_flops(BERT_BASE, widths[text]) for text in texts)
    flops = (4 if chunked else 3) * forward
    held = _activations(chunk if chunked else on_device, max(limits[text] for text in texts))
    memory = len(texts) * PARAMETERS * STATE + held
    return Stage(name, tokens, flops, _hours(plan, flops), memory)


def _corpus(config: Config, plan: Plan) -> Stage:
    flops = plan.passages * forward_flops(BERT_BASE, _width(config, plan, "passage"))
    held = _layer(_batch(config), _limits(config)["passage"])
    memory = 4 * PARAMETERS + held
    return Stage("", plan.passages * plan.passage_tokens, flops, _hours(plan, flops), memory)


def _scored(name: str, config: Config, plan: Plan, pairs: float) -> Stage:
    """Pairs through the re-ranker, while the corpus' vectors lie on the devices for search."""
    flops = pairs * forward_flops(BERT_BASE, _width(config, plan, "pair"))
    width = BERT_BASE.hidden_size * (4 if config.index.dtype == "float32" else 2)  # bytes
    vectors = plan.passages * width / MACHINES[plan.machine].count
    held = _layer(_batch(config), _limits(config)["pair"])
    memory = 3 * 4 * PARAMETERS + vectors + held
    return Stage(name, pairs * plan.pair_tokens, flops, _hours(plan, flops), memory)


def _batch(config: Config) -> int:
    """Texts of a batch outside training."""
    return config.compute.batch or ON_ACCELERATORS


def _searched(plan: Plan, queries: float) -> float:
    """Hours of exact search by the devices (--index.kind exact)."""
    flops = 2.0 * queries * plan.passages * BERT_BASE.hidden_size
    return _hours(plan, flops) * plan.utilisation / plan.search_utilisation


def _hours(plan: Plan, flops: float) -> float:
    machine = MACHINES[plan.machine]
    return flops / (machine.count * machine.peak * plan.utilisation) / 3_600


def _lengths(plan: Plan) -> dict[str, float]:
    return {"query": plan.query_tokens, "passage": plan.passage_tokens, "pair": plan.pair_tokens}


def _limits(config: Config) -> dict[str, int]:
    text, most = config.text, BERT_BASE.max_length
    lengths = {"query": text.query_length, "passage": text.passage_length, "pair": text.pair_length}
    return {name: length or most for name, length in lengths.items()}


def _width(config: Config, plan: Plan, text: str) -> float:
    """Tokens computed of a text outside training, on average."""
    mean = _lengths(plan)[text]
    return min(mean + ROUNDED_UP, _limits(config)[text]) if _pads(config, plan) else mean


def _pads(config: Config, plan: Plan) -> bool:
    """Whether padding is computed with on that machine: `model_folder.laid_out` asks this one's."""
    padding = config.compute.padding
    return MACHINES[plan.machine].tpu if padding == "auto" else padding == "keep"


def _activations(texts: float, length: int) -> float:
    """Bytes that backward needs of so many texts, by what jax keeps of each layer.

    25 D values of two bytes for a token, and of each head's attention 11 bytes for two tokens.
    """
    token = 2 * 25 * BERT_BASE.hidden_size + 11 * BERT_BASE.num_heads * length
    return BERT_BASE.num_layers * texts * length * token


def _layer(texts: float, length: int) -> float:
    """Of one layer, forward: 16 D values of two bytes for a token, and attention in float32."""
    return texts * length * (2 * 16 * BERT_BASE.hidden_size + 4 * BERT_BASE.num_heads * length)


if __name__ == "__main__":
    sys.exit(main())
