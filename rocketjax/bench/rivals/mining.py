"""Mining as one would write it with sentence-transformers, in a process of its own.

Encode the queries, semantic_search over the corpus' vectors, CrossEncoder.predict on the first
candidates and the positives, and the same lists written: undenoised and denoised ones.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer, util

from rocketjax.bench.measure import Answer, answer
from rocketjax.bench.rivals.texts import GPU_BATCHES, on_gpu, precision
from rocketjax.retrieval.vectors import Vectors

BATCHES = (16, 32, 64)


def main() -> None:
    """Answers with the seconds of one run, at its fastest batch size."""
    mining = Mining(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))

    def seconds(batch: int) -> float:
        started = time.perf_counter()
        mining.run(batch)
        return time.perf_counter() - started

    fastest: int | None = None

    def run(_: str) -> Answer:
        nonlocal fastest
        if fastest is None:
            batches = GPU_BATCHES if on_gpu() else BATCHES
            seconds(batches[0])  # to warm up
            fastest = min(batches, key=seconds)
        return {"seconds": seconds(fastest), "setting": f"its batch size {fastest}"}

    answer(run)


class Mining:
    """All of mining, once for each call of `run`."""

    def __init__(self, work: dict[str, Any]) -> None:
        self.work = work
        self.encoder = SentenceTransformer(work["weights"], model_kwargs=precision())
        self.encoder.max_seq_length = work["query_length"]
        self.scorer = CrossEncoder(
            work["weights"],
            num_labels=1,
            max_length=work["pair_length"],
            model_kwargs=precision(),
        )
        vectors = Vectors(Path(work["vectors"]))
        rows = vectors.rows(0, len(vectors)).astype(np.float32)
        self.corpus = torch.from_numpy(rows).to(self.encoder.device, self.encoder.dtype)
        self.ids = vectors.names(np.arange(len(vectors))).tolist()
        self.passages = dict(zip(self.ids, work["passages"], strict=True))

    def run(self, batch: int) -> None:
        """Queries to written lists."""
        candidates = self._retrieve(batch)
        likely = self._score(candidates, batch)
        rng = np.random.default_rng(self.work["seed"])
        with tempfile.TemporaryFile("w", encoding="utf-8") as file:
            for query, pids in candidates.items():
                for row in self._lists(query, pids, likely, rng):
                    file.write(json.dumps(row) + "\n")

    def _retrieve(self, batch: int) -> dict[str, list[str]]:
        """Every query's candidates, its positives left out."""
        queries, positives = self.work["queries"], self.work["positives"]
        vectors = self.encoder.encode(
            list(queries.values()), batch_size=batch, convert_to_tensor=True
        )
        depth, most = self.work["depth"], max(map(len, positives.values()))
        top_k = min(depth + most, len(self.ids))
        hits = util.semantic_search(
            vectors, self.corpus, top_k=top_k, score_function=util.dot_score
        )
        candidates = {}
        for query, ranking in zip(queries, hits, strict=True):
            pids = [self.ids[int(hit["corpus_id"])] for hit in ranking]
            candidates[query] = [pid for pid in pids if pid not in positives[query]][:depth]
        return candidates

    def _score(self, candidates: dict[str, list[str]], batch: int) -> dict[tuple[str, str], float]:
        """Probabilities of the first candidates and of the positives."""
        pairs = [
            (query, pid)
            for query, pids in candidates.items()
            for pid in (*self.work["positives"][query], *pids[: self.work["scored"]])
        ]
        texts = [(self.work["queries"][query], self.passages[pid]) for query, pid in pairs]
        scores = self.scorer.predict(texts, batch_size=batch)  # through a sigmoid, by default
        return dict(zip(pairs, scores.tolist(), strict=True))

    def _lists(
        self,
        query: str,
        pids: list[str],
        likely: dict[tuple[str, str], float],
        rng: np.random.Generator,
    ) -> list[dict[str, Any]]:
        """An undenoised and a denoised list for each positive of a query."""
        work = self.work
        size, rows = work["length"] - 1, []
        clean = [pid for pid in pids[: work["scored"]] if likely[query, pid] < work["low"]]
        for positive in work["positives"][query]:
            pools = {"undenoised": pids[: work["top_n"]], "denoised": clean}
            for kind, pool in pools.items():
                negatives = rng.choice(pool, min(size, len(pool)), replace=False).tolist()
                if kind == "denoised":
                    negatives += pids[work["scored"] :][: size - len(negatives)]
                rows.append(
                    {"query": query, "positive": positive, "negatives": negatives, "kind": kind}
                )
        return rows


if __name__ == "__main__":
    main()
