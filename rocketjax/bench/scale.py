"""python -m rocketjax.bench.scale: what grows with the corpus, and how, without a model's time.

For each size a synthetic collection is stored, encoded by a model that takes next to no time,
searched and mined, each step in a process of its own. docs/plan.md has what came out.
"""

import math
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.table import Table

from rocketjax.cli.command import command, console, say
from rocketjax.config.fields import PathName, Size
from rocketjax.config.schema import MINILM
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import ensure_parent, read_object, write_json

if TYPE_CHECKING:
    from rocketjax.bench.scale_steps import Steps
    from rocketjax.data.collection import Collection

Step = Literal["store", "encode", "search", "build", "scann", "mine"]
WORKER = "rocketjax.bench.scale_steps"
STEPS: dict[Step, str] = {
    "store": "store",
    "encode": "encode",
    "search": "exact search",
    "build": "ScaNN's build",
    "scann": "ScaNN's search",
    "mine": "mine",
}
TEXT = 700  # bytes of disk for a passage's text, in its TSV and in the store
SCANN = 3.3  # times the vectors in float32: what its build takes (docs/plan.md)
ROOM = 2e9  # bytes of memory for all else


@dataclass(frozen=True)
class Scale:
    """Seconds and memory of each step of a run over corpora of several sizes.

    Passages are synthetic, with MS MARCO's lengths; the models take next to no time, so that
    seconds are those of all that is not a model: tokenising, batching, writing, searching on the
    CPU. Each step runs in a process of its own, and what is done is kept: the same command
    continues. A step that this machine's memory does not suffice for is named, and left out.

    Linux only, whose /proc tells what a process holds.

    Example: python -m rocketjax.bench.scale --passages 1000000 2000000 4000000 8841823
    """

    passages: tuple[Size, ...] = (1_000_000, 2_000_000, 4_000_000, 8_841_823)
    """Sizes of the corpus, each measured by itself."""
    steps: tuple[Step, ...] = ("store", "encode", "search", "build", "scann", "mine")
    """What to measure: build and scann are ScaNN's index and a search by it. Each needs what those
    before it leave; mining searches exactly, and needs no ScaNN."""
    queries: Size = 2_000
    """Queries to mine for."""
    searched: Size = 512
    """Queries to search for."""
    depth: Size = 1_000
    """Passages found for each query."""
    scored: Size = 200
    """Of them, pairs that the re-ranker scores."""
    width: Size = 768
    """Numbers of a vector, stored in bfloat16."""
    weights: str = MINILM
    """Whose tokenizer is used: a folder or a hub name."""
    words: str = "demo"
    """Collection whose words the texts are drawn from."""
    folder: PathName = "runs/scale"
    """Where texts, vectors and figures are kept, some 4 GB a million passages with ScaNN."""


class Figures(NamedTuple):
    """What a step took."""

    passages: int
    step: str
    seconds: float = math.nan  # nan, here and below: it was not measured
    processor: float = math.nan  # seconds, of all threads: other jobs lengthen it little
    peak: float = math.nan  # bytes of the process, mapped files included
    own: float = math.nan  # of these, bytes that are not a file's


def _scale(options: Scale) -> None:
    from rocketjax.bench.measure import machine
    from rocketjax.data.load import load_collection
    from rocketjax.models.pretrained import resolve_weights

    if not sys.platform.startswith("linux"):
        raise InputError("rocketjax.bench.scale needs Linux, whose /proc tells a process' memory")
    most = max(options.queries, options.searched)
    if min(options.passages) < most:
        raise InputError(
            f"--passages {min(options.passages):,}: fewer than the {most:,} queries, each of which "
            "is the beginning of a passage of its own"
        )
    words = load_collection(options.words)
    weights = str(resolve_weights(options.weights).resolve())
    found = [row for size in options.passages for row in _of_size(options, weights, words, size)]
    console.print(table(found, machine()))


def _of_size(options: Scale, weights: str, words: "Collection", passages: int) -> Iterator[Figures]:
    """The steps of a size; those that are done are not done again."""
    from rocketjax.bench.measure import worker_process
    from rocketjax.bench.scale_steps import Steps
    from rocketjax.bench.synthetic import write_collection

    home = Path(options.folder).resolve() / str(passages)
    queries = max(options.queries, options.searched)
    steps = Steps(
        str(home),
        weights,
        words.name,
        passages,
        options.queries,
        options.searched,
        options.width,
        options.depth,
        options.scored,
    )
    done = _done(home, steps)
    if not (home / "texts").is_dir():
        _check_disk(home, passages * (TEXT + 2 * options.width * (1 + ("build" in options.steps))))
        say(f"{passages:,} passages: write their texts")
        write_collection(home / "texts", passages, queries, words)
    environment = os.environ | {"ROCKETJAX_CACHE": str(home / "cache")}
    for step, name in STEPS.items():
        if step not in options.steps:
            continue
        why = "" if step in done else _unfit(step, options.width, passages, done)
        say(f"{passages:,} passages: {name}{f': not measured: {why}' if why else ''}")
        if step not in done and not why:
            with worker_process(WORKER, home / "work.json", environment) as ask:
                done[step] = ask(step)
            write_json(home / "figures.json", done)
        yield Figures(passages, name, **done.get(step, {}))


def _done(home: Path, steps: "Steps") -> dict[str, dict[str, float]]:
    """What earlier runs measured in this folder; refuses one of other options."""
    work, figures = home / "work.json", home / "figures.json"
    if work.is_file() and read_object(work) != asdict(steps):
        raise InputError(f"{home}: was measured with other options; delete it, or give --folder")
    ensure_parent(work)
    write_json(work, asdict(steps))
    return read_object(figures) if figures.is_file() else {}


def _check_disk(home: Path, needed: int) -> None:
    """Refuses a size before hours of work, after which its vectors could not be written."""
    if (free := shutil.disk_usage(home).free) < needed:
        raise InputError(
            f"{home}: some {needed / 1e9:.0f} GB of disk are needed, and {free / 1e9:.0f} GB are "
            "free; give --folder, or fewer --passages"
        )


def _unfit(step: str, width: int, passages: int, done: dict[str, dict[str, float]]) -> str:
    """Why a step cannot be measured on this machine; empty where it can."""
    from rocketjax.retrieval.exact import SHARE_OF_MEMORY
    from rocketjax.retrieval.scann import missing
    from rocketjax.runtime.memory import machine_memory

    if step in ("build", "scann") and (why := missing()):
        return why
    needs = {"store": "", "encode": "store", "scann": "build"}.get(step, "encode")
    if needs and needs not in done:
        return f"{needs} was not measured"
    vectors, most = 2.0 * passages * width, SHARE_OF_MEMORY * machine_memory()
    exact = min(vectors, most)  # what does not fit is streamed
    needed = {"build": 2 * SCANN * vectors, "search": exact, "mine": exact}.get(step, 0.0)
    free = _free_memory()
    if needed and needed + ROOM > free:
        return f"needs some {(needed + ROOM) / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
    return ""


def _free_memory() -> int:
    """Bytes that the system could still give to a process."""
    lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    return 1024 * int(next(x for x in lines if x.startswith("MemAvailable:")).split()[1])


def table(found: list[Figures], title: str) -> Table:
    """Step by step, each size below the one before: growth is seen in the processors'
    seconds a million passages."""
    caption = "CPU: all threads' seconds; peak, own: GB with and without pages of mapped files"
    result = Table(title=title, caption=caption)
    result.add_column("step")
    for name in ("passages", "seconds", "CPU", "a million", "peak", "own"):
        result.add_column(name, justify="right")
    for step in STEPS.values():
        for row in (row for row in found if row.step == step):
            each = 1e6 * row.processor / row.passages
            values = (row.seconds, row.processor, each, row.peak / 1e9, row.own / 1e9)
            shown = ("-" if math.isnan(x) else f"{x:,.2f}" for x in values)
            result.add_row(step, f"{row.passages:,}", *shown)
    return result


main = command(Scale, _scale, "rocketjax.bench.scale", "the same command resumes from here")

if __name__ == "__main__":
    sys.exit(main())
