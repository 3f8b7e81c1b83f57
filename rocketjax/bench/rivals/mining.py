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


class Mining:
    """The whole of it, once for each call of `run`."""

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
        self.text = dict(zip(self.ids, work["passages"], strict=True))

    def run(self, batch: int) -> None:
        """Queries to written lists."""
        work = self.work
        queries, positives = work["queries"], work["positives"]
        vectors = self.encoder.encode(
            list(queries.values()), batch_size=batch, convert_to_tensor=True
        )
        most = max(map(len, positives.values()))
        top_k = min(work["depth"] + most, len(self.ids))
        hits = util.semantic_search(
            vectors, self.corpus, top_k=top_k, score_function=util.dot_score
        )
        found = {}
        for query, ranked in zip(queries, hits, strict=True):
            names = [self.ids[int(hit["corpus_id"])] for hit in ranked]
            found[query] = [pid for pid in names if pid not in positives[query]][: work["depth"]]
        pairs = [
            (query, pid)
            for query in queries
            for pid in (*positives[query], *found[query][: work["scored"]])
        ]
        texts = [(queries[query], self.text[pid]) for query, pid in pairs]
        scores = self.scorer.predict(texts, batch_size=batch)  # through a sigmoid, by default
        likely = dict(zip(pairs, scores.tolist(), strict=True))
        rng = np.random.default_rng(work["seed"])
        with tempfile.TemporaryFile("w", encoding="utf-8") as file:
            for query in queries:
                for row in self._lists(query, found[query], likely, rng):
                    file.write(json.dumps(row) + "\n")

    def _lists(
        self,
        query: str,
        found: list[str],
        likely: dict[tuple[str, str], float],
        rng: np.random.Generator,
    ) -> list[dict[str, Any]]:
        work = self.work
        size, rows = work["length"] - 1, []
        clean = [pid for pid in found[: work["scored"]] if likely[query, pid] < work["low"]]
        for positive in work["positives"][query]:
            pools = {"undenoised": found[: work["top_n"]], "denoised": clean}
            for kind, pool in pools.items():
                drawn = rng.choice(pool, min(size, len(pool)), replace=False).tolist()
                if kind == "denoised":
                    drawn += found[work["scored"] :][: size - len(drawn)]
                rows.append(
                    {"query": query, "positive": positive, "negatives": drawn, "kind": kind}
                )
        return rows


def main() -> None:
    """Answers with the seconds of one run, at the batch size that is best for it."""
    mining = Mining(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))

    def seconds(batch: int) -> float:
        started = time.perf_counter()
        mining.run(batch)
        return time.perf_counter() - started

    best: int | None = None

    def run(_: str) -> Answer:
        nonlocal best
        if best is None:
            batches = GPU_BATCHES if on_gpu() else BATCHES
            seconds(batches[0])  # to warm up
            best = min(batches, key=seconds)
        return {"seconds": seconds(best), "setting": f"its batch size {best}"}

    answer(run)


if __name__ == "__main__":
    main()
