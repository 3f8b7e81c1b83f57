"""A trained pair as models of mteb, whose own runner then judges them (extra mteb).

>>> import mteb
>>> from rocketjax.evaluation.mteb import MtebReranker, MtebRetriever
>>> model = MtebRetriever(rocketjax.load("runs/demo").retriever)
>>> mteb.evaluate(model, mteb.get_tasks(["NanoSciFactRetrieval"]))
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from rocketjax.inference.model import TextModel
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever

Batches = Iterable[Mapping[str, Any]]  # a data loader's, with a list of texts under "text"


class MtebRetriever:
    """An encoder of mteb: queries by the query tower and prompt, all else as passages.

    mteb joins titles and texts with a blank, as this package does by default.
    """

    def __init__(self, model: Retriever, name: str = "rocketjax/retriever") -> None:
        """`name`: ORGANISATION/MODEL, under which mteb files the results."""
        from mteb.models.model_meta import ScoringFunction

        self.model = model
        about = {
            "embed_dim": model.module.width,
            "max_tokens": model.tokenizer.config.passage_length,
            "similarity_fn_name": ScoringFunction.DOT_PRODUCT,
        }
        self.mteb_model_meta = _meta(name, model, about)

    def encode(self, inputs: Batches, *, prompt_type: Any = None, **options: Any) -> np.ndarray:
        """Texts -> float32 vectors [N, D].

        Args:
            inputs: batches with texts.
            prompt_type: "query", or anything else for passages.
            options: mteb's, of the task and the batch; nothing here depends on them.
        """
        del options
        texts = _texts(inputs)
        if getattr(prompt_type, "value", prompt_type) == "query":
            return self.model.encode_query(texts)
        return self.model.encode_passage(texts)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Dot products [N, M] of vectors [N, D] and [M, D], as torch tensors."""
        import torch

        first, second = map(torch.as_tensor, (embeddings1, embeddings2))
        return torch.atleast_2d(first) @ torch.atleast_2d(second).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Dot products [N] of the rows of vectors [N, D] and [N, D], as torch tensors."""
        import torch

        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(-1)


class MtebReranker:
    """A cross-encoder of mteb."""

    def __init__(self, model: Reranker, name: str = "rocketjax/reranker") -> None:
        """`name`: ORGANISATION/MODEL, under which mteb files the results."""
        self.model = model
        about = {"max_tokens": model.tokenizer.config.pair_length, "is_cross_encoder": True}
        self.mteb_model_meta = _meta(name, model, about)

    def predict(self, inputs1: Batches, inputs2: Batches, **options: Any) -> np.ndarray:
        """Queries and passages, pair by pair -> scores [N]."""
        del options
        return self.model.score(_texts(inputs1), _texts(inputs2))


def _meta(name: str, model: TextModel, about: dict[str, Any]) -> Any:
    """What mteb files results under: what the model knows of itself, and nothing else."""
    from mteb.models.model_meta import ModelMeta

    leaves, text = jax.tree.leaves(model.params), model.tokenizer.config
    known = {
        "name": name,
        "revision": model.fingerprint,
        "framework": ["JAX"],
        "n_parameters": sum(leaf.size for leaf in leaves),
        "memory_usage_mb": sum(leaf.nbytes for leaf in leaves) / 2**20,
        "use_instructions": bool(text.query_prompt or text.passage_prompt),
    }
    return ModelMeta.create_empty(known | about)


def _texts(batches: Batches) -> list[str]:
    """mteb has empty passages, which a model refuses: they count as a full stop."""
    return [text if text.strip() else "." for batch in batches for text in batch["text"]]
