"""A query answered as one would write it with sentence-transformers, in a process of its own.

Requests take turns: torch and ONNX Runtime use all cores for one.
"""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer, util

from rocketjax.bench.latency import asked
from rocketjax.bench.measure import Answer, answer
from rocketjax.bench.rivals import runtimes
from rocketjax.bench.rivals.texts import precision
from rocketjax.retrieval.vectors import Vectors

BATCH = 16  # pairs at once: the fastest of encode's and rerank's batch sizes on most CPUs


def main() -> None:
    """Answers "RUNTIME CLIENTS" with the seconds of each query, and of all."""
    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found: dict[str, Callable[[str], Any]] = {}

    def run(question: str) -> Answer:
        runtime, clients = question.split()
        if runtime not in found:
            found[runtime] = answering(runtime, work)
        each, whole = asked(found[runtime], work["queries"], int(clients))
        return {"each": each, "all": whole}

    answer(run)


def answering(runtime: str, work: dict[str, Any]) -> Callable[[str], Any]:
    """A function from a query to its passages' scores."""
    encoder = SentenceTransformer(work["weights"], model_kwargs=precision())
    encoder.max_seq_length = work["query_length"]
    vectors = Vectors(Path(work["vectors"]))
    rows = vectors.rows(0, len(vectors)).astype(np.float32)
    corpus = torch.from_numpy(rows).to(encoder.device, encoder.dtype)
    score = _scorer(runtime, work)
    turn = threading.Lock()

    def ask(query: str) -> Any:
        with turn:
            vector = encoder.encode([query], convert_to_tensor=True)
            hits = util.semantic_search(
                vector, corpus, top_k=work["depth"], score_function=util.dot_score
            )
            found = [work["passages"][int(hit["corpus_id"])] for hit in hits[0]]
            return score([(query, passage) for passage in found])

    return ask


def _scorer(runtime: str, work: dict[str, Any]) -> Callable[[list[tuple[str, str]]], Any]:
    folder, length = work["reranker"], work["pair_length"]
    if runtime != "torch":
        score = runtimes.scorer(runtime, folder, length)
        return lambda pairs: score(pairs, BATCH)
    model = CrossEncoder(folder, num_labels=1, max_length=length, model_kwargs=precision())
    return lambda pairs: model.predict(pairs, batch_size=BATCH)


if __name__ == "__main__":
    main()
