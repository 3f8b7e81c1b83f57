"""python -m rocketjax.bench: rocketjax and its rivals in turn, on the same texts."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from rocketjax import cli
from rocketjax.config import MINILM, ComputeConfig, Length, Size

if TYPE_CHECKING:
    from rocketjax.bench.pair import Result

Task = Literal["encode", "rerank", "train"]


@dataclass(frozen=True)
class Bench:
    """Measures rocketjax against what one would use instead, in turn, in two processes.

    encode: sentence-transformers' encode; rerank: its CrossEncoder.predict; both at the batch size
    that is best for them, tokenising included. train: the joint step, written plainly in PyTorch.
    Speeds are medians over rounds, the ratio is the median of the rounds' ratios. Needs the extra
    `bench`.

    Example: python -m rocketjax.bench --tasks encode rerank --rounds 7 --json figures.json
    """

    tasks: tuple[Task, ...] = ("encode", "rerank", "train")
    """What to measure."""
    collection: str = "demo"
    """Texts to measure on, of any format that training takes."""
    split: str = "dev"
    """Split of the queries."""
    weights: str = MINILM
    """Of all models: a folder or a hub name."""
    passages: Size = 256
    """Passages to encode, and pairs to score, in a run."""
    lists: Size = 8
    """Lists in a train step."""
    length: Size = 8
    """Passages in a list."""
    query_length: Length = 32
    """Longest query in tokens."""
    passage_length: Length = 128
    """Longest passage in tokens."""
    pair_length: Length = 158
    """Longest pair in tokens."""
    rounds: Size = 5
    """Rounds, each a run of both sides."""
    json: str = ""
    """File for the figures."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return cli.run(lambda: _bench(cli.parse_options(Bench, args, "rocketjax.bench")))


def _bench(options: Bench) -> None:
    from rocketjax.bench.ours import Ours
    from rocketjax.bench.pair import compare, rival_process
    from rocketjax.bench.work import make_work
    from rocketjax.data.collections import load_collection
    from rocketjax.files import write_text
    from rocketjax.models.pretrained import resolve_weights

    collection = load_collection(options.collection)
    lengths = (options.query_length, options.passage_length, options.pair_length)
    work = make_work(
        collection,
        collection.split(options.split),
        str(resolve_weights(options.weights)),
        options.passages,
        options.lists,
        options.length,
        lengths,
    )
    ours = Ours(work, options.compute)
    passages = options.lists * options.length
    plans = {
        "encode": ("passages", len(work.passages), lambda: ours.encode),
        "rerank": ("pairs", len(work.pairs), lambda: ours.rerank),
        "train": ("passages", passages, ours.train),
    }
    results = []
    with rival_process(work) as rival:
        for task in options.tasks:
            unit, units, ready = plans[task]
            cli.say(f"{task}: {units} {unit} a run, {options.rounds} rounds")
            results.append(compare(task, unit, units, ready(), rival, options.rounds))
    cli.console.print(_table(results))
    if options.json:
        figures = {"machine": _machine(), "results": [result._asdict() for result in results]}
        write_text(Path(options.json), json.dumps(figures, indent=2) + "\n")


def _table(results: "list[Result]") -> Table:
    table = Table(title=_machine())
    for name in ("task", "a second", "rocketjax", "rival", "ratio", ""):
        table.add_column(name, justify="left" if name in ("task", "a second", "") else "right")
    for result in results:
        speeds = (f"{result.ours:,.1f}", f"{result.theirs:,.1f}", f"{result.ratio:.2f}")
        table.add_row(result.task, result.unit, *speeds, result.setting)
    return table


def _machine() -> str:
    import jax

    device = jax.devices()[0]
    where = f"{os.cpu_count()} cores" if device.platform == "cpu" else device.device_kind
    return f"{where}, jax {jax.__version__}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
