"""Families of encoders beside sentence-transformers: tokens a second, of random weights.

How fast a model is does not depend on what it has learned, so that no weights need be downloaded:
each shape is drawn, exported as sentence-transformers reads it, and opened by both sides.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rocketjax.bench.measure import Result, in_rounds, result
from rocketjax.bench.recipes import MINILM_L6, MODERNBERT_BASE
from rocketjax.bench.work import Ours, Work, rival_process
from rocketjax.config.schema import ComputeConfig, TextConfig
from rocketjax.inference.export import export
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.inference.start import fitting_tokenizer
from rocketjax.models.architecture import EncoderConfig
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.layer import Params
from rocketjax.runtime.progress import Say
from rocketjax.text.batch import Tokens

# As their makers' config.json has them; the vocabulary's size costs nothing.
SHAPES = {
    "ModernBERT of 17M (Ettin)": dataclasses.replace(
        MODERNBERT_BASE,
        hidden_size=256,
        num_layers=7,
        num_heads=4,
        intermediate_size=384,
        max_positions=7_999,
        pad_token_id=0,  # the tokenizer is that of the work's weights
        local_rope_theta=160_000.0,
    ),
    "MiniLM of 6 layers": MINILM_L6,
}


def measure(work: Work, compute: ComputeConfig, rounds: int, say: Say) -> Iterator[Result]:
    """Encoding and re-ranking by each shape: by the clock, and by the processors' time.

    Args:
        work: its weights' tokenizer reads the texts of all shapes.
    """
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as home:
            own = drawn(shape, work, Path(home) / "models")
            ours = Ours(own, compute)
            tasks = {"encode": (ours.encode, _tokens(ours)), "rerank": (ours.rerank, _pairs(ours))}
            with rival_process(own) as rival:
                for task, (run, tokens) in tasks.items():
                    say(f"{name}, {task}: {tokens:,} tokens a run, {rounds} rounds")
                    taken, setting = in_rounds(task, run, rival, rounds)
                    for clock, unit in (("wall", "tokens"), ("processor", "of processors' time")):
                        pairs = [(getattr(a, clock), getattr(b, clock)) for a, b in taken]
                        yield result(f"{name}: {task}", unit, tokens, pairs, setting)


def drawn(shape: EncoderConfig, work: Work, folder: Path) -> Work:
    """The same work for a retriever and a re-ranker of a shape, whose weights are drawn.

    Args:
        folder: must not exist; both models are written there.
    """
    text = TextConfig(work.query_length, work.passage_length, work.pair_length)
    tokenizer = fitting_tokenizer(Path(work.weights), text, shape)
    retriever = BiEncoder(shape, shared=True, pooling="mean", normalize=True)
    reranker = CrossEncoder(shape, pooler=True)
    one = np.ones((1, 1), np.int32)
    tokens = Tokens(one, np.zeros_like(one), one[0])
    params = (
        _params(jax.eval_shape(retriever.init, jax.random.key(0), tokens, tokens)["params"]),
        _params(jax.eval_shape(reranker.init, jax.random.key(0), tokens)["params"]),
    )
    models = Retriever(retriever, params[0], tokenizer), Reranker(reranker, params[1], tokenizer)
    export(folder, *models, cards={})
    return dataclasses.replace(
        work, weights=str(folder / "retriever"), reranker=str(folder / "reranker")
    )


def _params(shapes: Params) -> Params:
    """Numbers as transformers draws them."""
    rng = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key in ("scale", "bias"):
            return np.full(leaf.shape, float(path[-1].key == "scale"), np.float32)
        return 0.02 * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _tokens(ours: Ours) -> int:
    texts = ours.retriever.tokenizer.passage(None, ours.work.passages)
    return sum(len(text.ids) for text in texts)


def _pairs(ours: Ours) -> int:
    queries, passages = zip(*ours.work.pairs, strict=True)
    texts = ours.reranker.tokenizer.pair(queries, None, passages)
    return sum(len(text.ids) for text in texts)
