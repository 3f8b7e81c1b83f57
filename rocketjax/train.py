"""python -m rocketjax.train: the whole pipeline, from one config to a jointly trained pair."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from rocketjax.cli.command import RESUMES, console, joined, run_command, say, watch
from rocketjax.config.options import parse
from rocketjax.config.schema import DataConfig

if TYPE_CHECKING:
    from rocketjax.evaluation.results import Report


DESCRIPTION = """\
Trains a retriever and a re-ranker jointly (dynamic listwise distillation) and judges both on
held-out queries, before and after: warm-up, encode, mine, joint training, index, evaluate.

The same command resumes where it was stopped. Without options: the embedded demo, minutes on a CPU.

Example: python -m rocketjax.train --name mine --data.collection FOLDER --joint.steps 500"""

NEXT = """\
{folder} holds both models and an index of the collection. Use them:
  python -m rocketjax.search --model {folder} "{query}"
  >>> import rocketjax
  >>> model = rocketjax.load("{folder}")
  >>> model.rerank("{query}", {passages})
How training went: {folder}/report.html. Train longer, or on your own data:
  {longer}
  python -m rocketjax.train --name mine --data.collection FOLDER"""

# What NEXT says of the demo, and of any other collection.
DEMO = {
    "query": "mean of an array",
    "passages": '["numpy.mean(a): ...", "numpy.sum(a): ..."]',
    "longer": "python -m rocketjax.train --name longer "
    "--reranker-warmup.steps 300 --joint.steps 300",
}

OTHER = {
    "query": "a query of yours",
    "passages": '["a passage", "another passage"]',
    "longer": "the same command, with more --joint.steps and another --run-dir (or --name)",
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""

    def command() -> None:
        config = parse(sys.argv[1:] if args is None else args, "rocketjax.train", DESCRIPTION)
        from rocketjax.pipeline import run  # imports jax: not for --help

        with joined(config.hosts):
            report = run.run(config, say, watch)
            if report is not None:
                console.print(table(report))
                texts = DEMO if config.data.collection == DataConfig().collection else OTHER
                say(NEXT.format(folder=report.folder, **texts))

    return run_command(command, f"{RESUMES} (without --overwrite and --from)")


def table(report: "Report") -> Table:
    """The measures of both models before and after."""
    from rocketjax.evaluation.results import HEADS, SHOWN

    result = Table(
        title=f"{report.queries} held-out queries, {sum(report.seconds.values()) / 60:.1f} minutes",
        caption="p: paired randomisation test over queries, two-sided. oracle: a perfect re-ranker "
        "of the retriever's candidates. All measures: report.json",
    )
    for name in HEADS:
        result.add_column(name, justify="left" if name in ("model", "measure") else "right")
    for row in report.rows:
        if row.measure in SHOWN:
            result.add_row(*row.cells(), end_section=row.measure == SHOWN[-1])
    return result


if __name__ == "__main__":
    sys.exit(main())
