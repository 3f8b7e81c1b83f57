"""The steps of rocketjax.bench.scale: each in a process of its own, by the doors that a run takes.

A worker (bench/measure.py): its one question is the name of a step.
"""

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rocketjax.bench.measure import answer, taken
from rocketjax.bench.synthetic import instant_pair
from rocketjax.config.schema import IndexConfig, ListConfig
from rocketjax.data.collection import Collection, Split
from rocketjax.data.load import load_collection
from rocketjax.mining.mine import mine
from rocketjax.retrieval.encode import encode_corpus, origin_of
from rocketjax.retrieval.index import Index, Sample
from rocketjax.retrieval.model import Corpus, Model
from rocketjax.retrieval.open import build_index, open_index
from rocketjax.retrieval.ranking import retrieve_in_parts
from rocketjax.retrieval.vectors import Vectors
from rocketjax.runtime.memory import keep_freed_memory
from rocketjax.runtime.progress import silent, unwatched

STATUS = Path("/proc/self/status")
LOOK = 0.05  # seconds between two looks at this process' memory
NAME = "synthetic"  # of the model
SEED = 1


@dataclass(frozen=True)
class Steps:
    """What the steps work on; the fields are the work's JSON."""

    folder: str  # of one size
    weights: str
    words: str  # the name of the collection that the texts' words are of
    passages: int
    queries: int
    searched: int
    width: int
    depth: int
    scored: int

    @property
    def home(self) -> Path:
        """The folder."""
        return Path(self.folder)

    @cached_property
    def collection(self) -> Collection:
        """Opened; stored where it is not yet."""
        return load_collection(str(self.home / "texts"))

    @cached_property
    def model(self) -> Model:
        """The pair that takes next to no time."""
        return instant_pair(Path(self.weights), self.width)

    def store(self) -> None:
        """TSV to the memory-mapped store."""
        shutil.rmtree(self.home / "cache", ignore_errors=True)  # ROCKETJAX_CACHE of a worker
        assert len(self.collection.passages) == self.passages

    def encode(self) -> None:
        """The store to vectors on disk."""
        folder = _emptied(self.home / "vectors")
        config = IndexConfig(dtype="bfloat16")
        encode_corpus(self.model.retriever, NAME, self.collection, config, folder, unwatched)

    def search(self) -> None:
        """Exact search, opened as by a run with `index.kind exact`."""
        self._search(self._open(IndexConfig(kind="exact", dtype="bfloat16")))

    def build(self) -> None:
        """ScaNN, tuned on a quarter of the queries to the default recall."""
        vectors = Vectors(self.home / "vectors")
        shutil.rmtree(vectors.folder / "scann", ignore_errors=True)
        texts = list(self._split(max(1, self.searched // 4)).queries.values())
        sample = Sample("queries", lambda: self.model.retriever.encode_query(texts, steady=True))
        config = IndexConfig(kind="scann", dtype="bfloat16")
        build_index(vectors, config, sample, self._depth, print)

    def scann(self) -> None:
        """The same search by ScaNN, opened from its files."""
        self._search(self._open(IndexConfig(kind="scann", dtype="bfloat16")))

    def mine(self) -> None:
        """Queries to written lists: exact search, scored candidates, both kinds of lists."""
        corpus = Corpus(
            self._open(IndexConfig(kind="exact", dtype="bfloat16")), self.collection.by_id
        )
        split, folder = self._split(self.queries), _emptied(self.home / "lists")
        # sigmoid: scores that mean nothing cannot be calibrated.
        config = ListConfig(
            length=min(128, self._depth),
            top_n=self._depth,
            scored=self.scored,
            depth=self._depth,
            calibration="sigmoid",
        )
        mine(self.model, corpus, split, config, SEED, folder, unwatched)

    @property
    def _depth(self) -> int:
        return min(self.depth, self.passages - 1)

    def _split(self, count: int) -> Split:
        split = self.collection.split("train")
        return split.only(list(split.queries)[:count])

    def _open(self, config: IndexConfig) -> Index:
        origin = origin_of(self.model.retriever, NAME, self.collection)
        return open_index(self.home / "vectors", config, origin)

    def _search(self, index: Index) -> None:
        queries = self._split(self.searched).queries
        found = retrieve_in_parts(self.model.retriever, index, queries, self._depth, silent)
        for _, ranked in found:
            assert len(ranked) > 0


def _emptied(folder: Path) -> Path:
    """A step that was stopped begins again: its time is to be that of all of it."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def measured(step: Callable[[], None], ready: Callable[[], Any]) -> dict[str, float]:
    """What a step takes: seconds, and bytes of this process at their peak.

    Args:
        ready: what the step needs and is not timed; its memory counts.
    """
    with _own_memory() as own:
        ready()
        wall, processor = taken(step)
    # VmHWM, not ru_maxrss: a child's begins with what its parent had.
    memory = {"peak": _memory("VmHWM"), "own": max(own)}
    return {"seconds": wall, "processor": processor, **memory}


@contextmanager
def _own_memory() -> Iterator[list[int]]:
    """What the process holds itself, again and again: pages of mapped files are the system's, and
    it takes them back where it needs the room."""
    looks, ended = [_memory("RssAnon")], threading.Event()

    def look() -> None:
        while not ended.wait(LOOK):
            looks.append(_memory("RssAnon"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        ended.set()
        thread.join()
        looks.append(_memory("RssAnon"))


def _memory(name: str) -> int:
    """Bytes, by a line of /proc/self/status such as "VmHWM:    123 kB"."""
    line = next(x for x in STATUS.read_text("utf-8").splitlines() if x.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def main() -> None:
    """Answers what the step took."""
    keep_freed_memory()  # as all commands do
    steps = Steps(**json.loads(Path(sys.argv[1]).read_text("utf-8")))

    def ready(step: str) -> None:
        if step != "store":
            _ = steps.collection, steps.model

    answer(lambda step: measured(getattr(steps, step), lambda: ready(step)))


if __name__ == "__main__":
    main()
