"""What every searcher of a corpus offers."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from rocketjax.retrieval.vectors import Vectors
from rocketjax.runtime.errors import InputError


class Sample(NamedTuple):
    """Texts on which an index's recall is measured."""

    name: str  # as in "on 200 queries of dev"
    encode: Callable[[], np.ndarray]  # their vectors [S, D]


class Index(Protocol):
    """Finds the passages whose vectors have the highest dot product with a query's."""

    vectors: Vectors

    def search(self, queries: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best `top_k` passages of each query.

        Args:
            queries: [Q, D] float32.

        Returns:
            passage ids [Q, top_k] (str) and scores [Q, top_k] float32, best first. Where fewer
            were found (an approximate index may), the rest is "" with score -inf.

        Raises:
            InputError: top_k above the corpus, vectors of another width, or one that is not finite.
        """
        ...


def check_search(queries: np.ndarray, top_k: int, vectors: Vectors) -> None:
    """Refuses what no index can answer."""
    if queries.ndim != 2 or queries.shape[1] != vectors.width:
        raise InputError(
            f"the queries are {queries.shape}, but the index takes [Q, {vectors.width}]; "
            "encode them with the model the index was made with"
        )
    # A NaN would compare with nothing: any passages would come out, in any order.
    with np.errstate(over="ignore"):
        finite = np.isfinite(queries.astype(np.float32)).all(axis=1)
    if not finite.all():
        raise InputError(
            f"queries[{int(np.argmin(finite))}] is not finite (NaN, or too large for float32): no "
            "passage can be compared with it; if a model gave it, its weights or its "
            "--compute.dtype are at fault"
        )
    if not 1 <= top_k <= len(vectors):
        raise InputError(f"top_k is {top_k}, but the corpus holds {len(vectors)} passages")


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact rows [Q, k] that is among the found ones [Q, k]; 1 of no query."""
    shares = [len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, exact, strict=True)]
    return float(np.mean(shares)) if shares else 1.0
