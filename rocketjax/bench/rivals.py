"""The other side, in a process of its own: sentence-transformers, and a plain PyTorch train step.

Started by `pair.py` with a file of work; reads the name of a task a line, answers with a JSON line
of the seconds that one run took. The first run of a task tries batch sizes and keeps the best.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rocketjax.bench.process import Answer, answer
from rocketjax.bench.work import Work

BATCHES = (8, 16, 32, 64, 128)
GPU_BATCHES = (64, 256, 1024)


class Rivals:
    """Tasks by the names that `Ours` has."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.batch: dict[str, int] = {}

    def encode(self) -> Callable[[int], Any]:
        """SentenceTransformer.encode."""
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(self.work.weights, model_kwargs=precision())
        model.max_seq_length = self.work.passage_length
        return lambda batch: model.encode(self.work.passages, batch_size=batch)

    def rerank(self) -> Callable[[int], Any]:
        """CrossEncoder.predict."""
        from sentence_transformers import CrossEncoder

        model = CrossEncoder(
            self.work.weights,
            num_labels=1,
            max_length=self.work.pair_length,
            model_kwargs=precision(),
        )
        return lambda batch: model.predict(self.work.pairs, batch_size=batch)

    def train(self) -> Callable[[int], Any]:
        """The same step, written plainly: shared tower, re-ranker, AdamW, padded to the longest."""
        from rocketjax.bench.plain_torch import make_step

        step = make_step(self.work)
        return lambda _: step()

    def best(self, name: str, run: Callable[[int], Any]) -> int:
        """Its best batch size, by one run each after one to warm up."""
        if name == "train":
            run(0)
            return 0
        batches = GPU_BATCHES if on_gpu() else BATCHES
        run(batches[0])
        taken = {batch: _seconds(run, batch) for batch in batches}
        return min(taken, key=taken.__getitem__)


def on_gpu() -> bool:
    """Whether sentence-transformers would compute on one."""
    from sentence_transformers.util import get_device_name

    return get_device_name() == "cuda"


def precision() -> dict[str, Any]:
    """bfloat16 on a GPU, as rocketjax has it there."""
    return {"dtype": "bfloat16"} if on_gpu() else {}


def _seconds(run: Callable[[int], Any], batch: int) -> float:
    started = time.perf_counter()
    run(batch)
    return time.perf_counter() - started


def main() -> None:
    """Answers until its input ends."""
    rivals = Rivals(Work.read(Path(sys.argv[1])))
    tasks: dict[str, Callable[[int], Any]] = {}

    def run(name: str) -> Answer:
        if name not in tasks:
            tasks[name] = getattr(rivals, name)()
            rivals.batch[name] = rivals.best(name, tasks[name])
        batch = rivals.batch[name]
        setting = f"its batch size {batch}" if batch else ""
        return {"seconds": _seconds(tasks[name], batch), "setting": setting}

    answer(run)


if __name__ == "__main__":
    main()
