"""python -m rocketjax.bench.plan: hours and memory that a config will need on an accelerator.

A stage's time is its floating-point operations over the rate that the devices are assumed to reach.
docs/plan.md has the formulae, and the results for MS MARCO and Natural Questions.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from rich.table import Table

from rocketjax.bench.work import forward_flops
from rocketjax.cli.command import command, console
from rocketjax.config.fields import Count, Positive, Size
from rocketjax.config.options import load
from rocketjax.config.schema import Config, StageConfig
from rocketjax.inference.batching import ON_ACCELERATORS
from rocketjax.mining.augment import lists_per_positive
from rocketjax.models.encoder import EncoderConfig

BERT_BASE = EncoderConfig(30_522, 768, 12, 12, 3_072, 512)
PARAMETERS = 108_891_648  # of BERT base without its pooler
STATE = 16  # bytes per parameter: itself, its gradient and Adam's two moments, float32


class Devices(NamedTuple):
    """The accelerators of a machine."""

    count: int
    peak: float  # of each, dense bfloat16 operations a second
    memory: float  # of each, bytes
    tpu: bool


MACHINES = {  # by their makers' data sheets; a v4-32 has 32 cores on 16 chips
    "v5e-8": Devices(8, 197e12, 16e9, tpu=True),
    "v4-32": Devices(16, 275e12, 32e9, tpu=True),
    "h100": Devices(1, 989e12, 80e9, tpu=False),
}

# Outside training, texts are sorted and padded to the next multiple of 32: by this on average.
ROUNDED_UP = 15.5


@dataclass(frozen=True)
class Plan:
    """Hours, tokens and memory of a config's stages on a machine, for models of BERT base's shape.

    Utilisation is assumed, not measured (docs/plan.md).

    Example: python -m rocketjax.bench.plan --config configs/nq.yaml --passages 21015324 --queries
    8757 --query-tokens 11.7 --passage-tokens 127.3 --pair-tokens 147.6
    """

    config: str = "configs/msmarco.yaml"
    """Config of the run."""
    machine: Literal["v5e-8", "v4-32", "h100"] = "v5e-8"
    """Machine that it would run on."""
    passages: Size = 8_841_823
    """Passages in the corpus."""
    queries: Size = 6_980
    """Queries to evaluate on."""
    query_tokens: Positive = 9.0
    """Mean length of a query; this default and those below were measured on samples of MS MARCO."""
    passage_tokens: Positive = 70.5
    """Mean length of a passage, cut as the config says."""
    pair_tokens: Positive = 79.1
    """Mean length of a pair, cut as the config says."""
    utilisation: Positive = 0.3
    """Assumed share of the peak that encoding and training reach: on real tokens, or on all tokens
    where padding is computed, as on a TPU."""
    search_utilisation: Positive = 0.05
    """Assumed share of the peak that exact search reaches; choosing the top k takes most of it."""
    chunk: Count = 0
    """Texts whose activations a device holds; 0: as the config says."""


class Stage(NamedTuple):
    """What a stage takes."""

    name: str
    tokens: float  # real ones
    flops: float  # including those of padding, where it is computed
    hours: float
    memory: float  # bytes of a device at its peak


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
    """The stages in their order.

    Mining for the re-ranker's warm-up is retrieval alone. With `lists.refresh`, the corpus is
    encoded again for every further round.
    """
    slots, lists = config.lists.length, config.lists
    scored = (lists.scored or lists.top_n) + 1 if lists.denoised else 0
    warm, joint = config.reranker_warmup, config.joint
    mined = joint.steps * joint.batch / sum(lists_per_positive(lists))
    corpus = _corpus(config, plan)
    evaluation = _scored("evaluate", config, plan, plan.queries * config.evaluate.rerank_depth)
    evaluation = evaluation._replace(hours=evaluation.hours + _search_hours(plan, plan.queries))
    if config.evaluate.start:
        yield _both("start", corpus, evaluation)
    yield _trained("warm-retriever", config, plan, config.retriever_warmup, 1, ("query", "passage"))
    if config.retriever_warmup.steps or not config.evaluate.start:  # or the start's index serves
        yield corpus._replace(name="encode")
    training = _trained("warm-reranker", config, plan, warm, slots, ("pair",))
    yield training._replace(hours=training.hours + _search_hours(plan, warm.steps * warm.batch))
    mining = _scored("mine", config, plan, mined * scored)
    yield mining._replace(hours=mining.hours + _search_hours(plan, mined))
    if lists.refresh:
        for _ in range(lists.refresh, joint.steps, lists.refresh):
            yield corpus._replace(name="encode again")
    yield _trained("joint", config, plan, joint, slots, ("query", "passage", "pair"))
    yield corpus._replace(name="index")
    yield evaluation


def _both(name: str, first: Stage, second: Stage) -> Stage:
    """One stage that does the work of two, one after the other."""
    return Stage(
        name,
        first.tokens + second.tokens,
        first.flops + second.flops,
        first.hours + second.hours,
        max(first.memory, second.memory),
    )


def _trained(
    name: str, config: Config, plan: Plan, stage: StageConfig, slots: int, texts: Sequence[str]
) -> Stage:
    """A stage that trains on lists of `slots` passages, each model reading some kinds of texts.

    Backward is twice forward's work; a chunk is run forward once more. A padded batch is as wide as
    its longest text: among hundreds of texts, one has the limit's length.
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
    """The corpus through the retriever, for any of the stages that encode it."""
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


def _search_hours(plan: Plan, queries: float) -> float:
    """Of exact search on the devices (--index.kind exact)."""
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
    """Tokens computed per text outside training, on average."""
    mean = _lengths(plan)[text]
    return min(mean + ROUNDED_UP, _limits(config)[text]) if _pads(config, plan) else mean


def _pads(config: Config, plan: Plan) -> bool:
    """Whether padding is computed on the plan's machine; inference.start.laid_out: on this one."""
    padding = config.compute.padding
    return MACHINES[plan.machine].tpu if padding == "auto" else padding == "keep"


def _activations(texts: float, length: int) -> float:
    """Bytes that backward needs for `texts` texts, by what jax keeps of each layer.

    25 D values of two bytes per token, and 11 bytes per pair of tokens for each attention head.
    """
    token = 2 * 25 * BERT_BASE.hidden_size + 11 * BERT_BASE.num_heads * length
    return BERT_BASE.num_layers * texts * length * token


def _layer(texts: float, length: int) -> float:
    """Bytes of one layer, forward: 16 D values of two bytes per token, and attention in float32."""
    return texts * length * (2 * 16 * BERT_BASE.hidden_size + 4 * BERT_BASE.num_heads * length)


main = command(Plan, _plan, "rocketjax.bench.plan")

if __name__ == "__main__":
    sys.exit(main())
