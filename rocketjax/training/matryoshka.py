"""Losses at several widths of a vector: Matryoshka representation learning (arXiv 2205.13147).

    L = sum over widths m of c_m L(E_Q(q)[:m], E_P(p)[:m])

L is a loss of the retriever, of labels or of distillation; c_m the width's weight. Texts are
encoded once and the re-ranker scores once, whatever the number of widths. A retriever that scales
its vectors to length 1 scales them again after each cut, as it will when it is used so.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax

from rocketjax.config.loss import LossConfig
from rocketjax.models.bi_encoder import BiEncoder, cut
from rocketjax.runtime.errors import InputError
from rocketjax.training.losses import Term

COSINE_TEMPERATURE = 0.05  # of scores between -1 and 1
_OF_VECTORS = ("retriever", "distill")  # the terms that depend on the retriever's vectors

# Of vectors: queries [B, D] and passages [B, L, D].
TermsOfVectors: TypeAlias = Callable[[jax.Array, jax.Array], dict[str, Term]]


def temperature_of(loss: LossConfig, retriever: BiEncoder) -> float:
    """What the retriever's scores are divided by: as given, else by the kind of its scores."""
    if loss.retriever_temperature is not None:
        return loss.retriever_temperature
    return COSINE_TEMPERATURE if retriever.normalize else 1.0


def settled(loss: LossConfig, retriever: BiEncoder) -> LossConfig:
    """The loss with what the retriever decides: the temperature, and the weight of each width.

    Raises:
        InputError: the widest of `loss.matryoshka` is not the retriever's own width, or there are
            weights and not one for each.
    """
    widths, weights = loss.matryoshka, loss.matryoshka_weights
    if widths and max(widths) != retriever.width:
        raise InputError(
            f"loss.matryoshka is {[*widths]}, but the retriever's vectors have {retriever.width} "
            f"numbers: its widest must be {retriever.width}, what the trained retriever gives "
            "(--retriever.truncate makes that less)"
        )
    if weights and len(weights) != len(widths):
        raise InputError(
            f"loss.matryoshka_weights has {len(weights)} weights for {len(widths)} widths; give "
            "one for each, or none"
        )
    weights = weights or (1 / max(1, len(widths)),) * len(widths)
    return dataclasses.replace(
        loss, retriever_temperature=temperature_of(loss, retriever), matryoshka_weights=weights
    )


def at_widths(
    terms_of: TermsOfVectors,
    vectors: tuple[jax.Array, jax.Array],
    loss: LossConfig,
    retriever: BiEncoder,
) -> dict[str, Term]:
    """The retriever's terms, weighed over the widths; nothing where no widths are given.

    Args:
        terms_of: of both kinds of vectors.
        vectors: queries [B, D] and passages [B, L, D], as the retriever gives them.
        loss: a settled one.
        retriever: whether it scales to length 1 decides whether each width is scaled.
    """
    at_each = [terms_of(*shortened(vectors, width, retriever)) for width in loss.matryoshka]

    def weighed(name: str) -> Term:
        weighted = zip(loss.matryoshka_weights, at_each, strict=True)
        total = sum((weight * terms[name].total for weight, terms in weighted), start=0.0)
        return Term(total, at_each[0][name].count)  # pyright: ignore  (a count is of lists)

    return {name: weighed(name) for name in _OF_VECTORS if at_each and name in at_each[0]}


def shortened(
    vectors: tuple[jax.Array, jax.Array], width: int, retriever: BiEncoder
) -> tuple[jax.Array, jax.Array]:
    """Queries [B, D] and passages [B, L, D] as a retriever of that width gives them."""
    if width == retriever.width:  # it is scaled already
        return vectors
    query, passage = (cut(x, width, retriever.normalize) for x in vectors)
    return query, passage


def narrower(loss: LossConfig, retriever: BiEncoder) -> list[int]:
    """The widths of `loss.matryoshka` that are not the retriever's own, the widest first."""
    return sorted({*loss.matryoshka} - {retriever.width}, reverse=True)
