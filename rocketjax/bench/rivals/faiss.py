"""faiss' IVFFlat in a process of its own, with the fastest setting that reaches the recall.

Asked for a number of threads, it answers with the seconds that a search of the second half of the
queries took, all at once. It is tuned on the first half, for each number of threads separately.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from rocketjax.bench.measure import Answer, answer
from rocketjax.retrieval.index import recall
from rocketjax.retrieval.vectors import Vectors

LISTS = (1, 2, 4, 8)  # times the square root of the corpus
TUNING_RUNS = 3


def main() -> None:
    """Answers until its input ends."""
    flat = Flat(Path(sys.argv[1]))
    answer(lambda threads: flat.search(int(threads)))


class Flat:
    """An index for each number of lists; vectors of length 1, so inner products are cosines."""

    def __init__(self, folder: Path) -> None:
        work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
        self.top_k, self.target_recall = work["top_k"], work["recall"]
        vectors = Vectors(Path(work["vectors"]))
        self.vectors = vectors.rows(0, len(vectors)).astype(np.float32)
        queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
        half = len(queries) // 2
        self.tuning, self.tuning_truth = queries[:half], truth[:half]
        self.measured, self.measured_truth = queries[half:], truth[half:]
        sizes = {max(1, round(times * len(vectors) ** 0.5)) for times in LISTS}
        self.indices = [self._build(size) for size in sorted(sizes)]
        self.fastest: dict[int, Any] = {}  # index by number of threads

    def search(self, threads: int) -> Answer:
        """One timed search of the measured half, by the index that is fastest on `threads`."""
        faiss.omp_set_num_threads(threads)
        if threads not in self.fastest:
            for index in self.indices:
                index.nprobe = self._fewest_probes(index)
            self.fastest[threads] = min(self.indices, key=self._tuning_seconds)
        index = self.fastest[threads]
        started = time.perf_counter()
        _, rows = index.search(self.measured, self.top_k)
        seconds = time.perf_counter() - started
        reached = recall(rows, self.measured_truth)
        setting = f"IVFFlat {index.nlist} lists, {index.nprobe} probed, recall {reached:.3f}"
        return {"seconds": seconds, "setting": setting}

    def _build(self, lists: int) -> Any:
        quantizer = faiss.IndexFlatIP(self.vectors.shape[1])
        index = faiss.IndexIVFFlat(
            quantizer, self.vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT
        )
        index.train(self.vectors)  # pyright: ignore
        index.add(self.vectors)  # pyright: ignore
        return index

    def _fewest_probes(self, index: Any) -> int:
        low, high = 1, index.nlist
        while low < high:
            index.nprobe = (low + high) // 2
            _, rows = index.search(self.tuning, self.top_k)
            if recall(rows, self.tuning_truth) >= self.target_recall:
                high = index.nprobe
            else:
                low = index.nprobe + 1
        return low

    def _tuning_seconds(self, index: Any) -> float:
        times = []
        for _ in range(TUNING_RUNS):
            started = time.perf_counter()
            index.search(self.tuning, self.top_k)
            times.append(time.perf_counter() - started)
        return min(times)


if __name__ == "__main__":
    main()
