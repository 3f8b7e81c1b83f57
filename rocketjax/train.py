"""python -m rocketjax.train: joint training of a retriever and a re-ranker, from one config."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from rocketjax.config import parse
from rocketjax.errors import InputError

if TYPE_CHECKING:
    from rocketjax.pipeline import Report

DESCRIPTION = """\
Trains a retriever and a re-ranker jointly (dynamic listwise distillation) and judges both on
held-out queries, before and after. Without options: the embedded demo, a few minutes on a CPU."""


NEXT = """\
{folder} holds both models. Use them:
  >>> import rocketjax
  >>> model = rocketjax.load("{folder}")
  >>> model.rerank("mean of an array", ["numpy.mean(a): ...", "numpy.sum(a): ..."])
Every step's losses are in {folder}/train.jsonl. Train longer, or on your own BEIR folder:
  python -m rocketjax.train --name longer --reranker-warmup.steps 300 --joint.steps 300
  python -m rocketjax.train --name mine --data.collection FOLDER"""


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0 done, 2 bad input, 3 diverged."""
    console = Console()
    try:
        config = parse(sys.argv[1:] if args is None else args, "rocketjax.train", DESCRIPTION)
        from rocketjax import fit, pipeline  # imports jax: not for --help

        def watch(items: Sequence[Any], name: str) -> Iterable[Any]:
            return track(items, name.ljust(13), console=console)

        try:
            report = pipeline.run(config, console.print, watch)
        except fit.NonFiniteError as error:
            Console(stderr=True).print(
                f"training diverged at {error}", style="bold red", soft_wrap=True
            )
            return 3
    except InputError as error:
        Console(stderr=True).print(
            f"error: {error}", style="bold red", markup=False, soft_wrap=True
        )
        return 2
    console.print(table(report))
    console.print(NEXT.format(folder=report.folder), markup=False, highlight=False, soft_wrap=True)
    return 0


def table(report: "Report") -> Table:
    """The measures of both models before and after."""
    result = Table(
        title=f"{report.queries} held-out queries, {report.seconds / 60:.1f} minutes",
        caption="p: paired randomisation test over queries, two-sided",
    )
    for name in ("model", "measure"):
        result.add_column(name)
    for name in ("before", "after", "gain", "p"):
        result.add_column(name, justify="right")
    for row in report.rows:
        result.add_row(
            row.model,
            row.measure,
            f"{row.before:.3f}",
            f"{row.after:.3f}",
            f"{row.after - row.before:+.3f}",
            f"{row.p:.4f}",
            end_section=row.measure == report.rows[-1].measure,
        )
    return result


if __name__ == "__main__":
    sys.exit(main())
