"""FlagEmbedding's re-ranker, with the weights and the pairs of the others."""

from collections.abc import Callable
from typing import Any

from transformers import AutoModelForSequenceClassification

from rocketjax.bench.work import Work


def rerank(work: Work, gpu: bool) -> Callable[[int], list[float]]:
    """FlagReranker.compute_score; in half precision on a GPU, as it is meant to be."""
    try:
        from FlagEmbedding import FlagReranker  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        # 1.4.2, the newest, imports what transformers 5.24 has no more.
        remedy = "pip install FlagEmbedding 'transformers<5.24'"
        raise SystemExit(f"FlagEmbedding cannot be imported: {error}; {remedy}") from None
    folder = work.reranker or work.weights
    judge: Any = FlagReranker(
        folder, use_fp16=gpu, devices="cuda:0" if gpu else "cpu", max_length=work.pair_length
    )
    # It would give a folder without a head two labels, and read them as scores of two pairs.
    judge.model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, use_safetensors=True
    )
    return lambda batch: judge.compute_score(work.pairs, batch_size=batch)
