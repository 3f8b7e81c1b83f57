"""Training lists from what the retriever finds: a positive and sampled hard negatives."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rocketjax.config import ListConfig
from rocketjax.errors import InputError
from rocketjax.files import write_text


@dataclass(frozen=True)
class TrainingList:
    """A query, its positive passage and its negatives, all by id."""

    query: str
    positive: str
    negatives: tuple[str, ...]


def undenoised_lists(
    candidates: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
    config: ListConfig,
    seed: int,
) -> list[TrainingList]:
    """One list a (query, positive), its negatives a uniform sample of the query's candidates.

    "Undenoised": a candidate nobody judged counts as negative, though some do answer the query.
    A query's known positives are never among its negatives. The draw hangs on seed, query and
    positive alone, so other queries, devices or orders do not change it.

    Args:
        candidates: query id -> passage ids, best first; the first `top_n` are sampled from.
        qrels: query id -> passage id -> relevance, positive if > 0.

    Raises:
        InputError: a query without a positive.
    """
    lists = []
    for query, ranked in candidates.items():
        positives = sorted(pid for pid, grade in qrels.get(query, {}).items() if grade > 0)
        if not positives:
            raise InputError(
                f"query {query!r} has no positive passage in the qrels; judge one or drop the query"
            )
        pool = [pid for pid in ranked[: config.top_n] if pid not in positives]
        for positive in positives:
            rng = np.random.default_rng([seed, _number(query), _number(positive)])
            size = min(config.length - 1, len(pool))
            drawn = rng.choice(len(pool), size=size, replace=False) if size else []
            lists.append(TrainingList(query, positive, tuple(pool[i] for i in drawn)))
    return lists


def write_lists(path: Path, lists: Sequence[TrainingList]) -> None:
    """One JSON object a line, whole or not at all."""
    write_text(path, "".join(json.dumps(asdict(item)) + "\n" for item in lists))


def read_lists(path: Path) -> list[TrainingList]:
    """The lists of `write_lists`.

    Raises:
        InputError: a line is no such object, or a list without a positive; the line is named.
    """
    lists = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line.decode())
            item = TrainingList(row["query"], row["positive"] or "", tuple(row["negatives"]))
            ids = (item.query, item.positive, *item.negatives)
            if isinstance(row["negatives"], str) or not all(isinstance(i, str) for i in ids):
                raise TypeError("ids are texts")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'{path}:{number}: not a list {{"query", "positive", "negatives"}}: {error}'
            ) from error
        if not item.positive:
            raise InputError(f"{path}:{number}: positive: the list of {item.query!r} has none")
        lists.append(item)
    return lists


def _number(text: str) -> int:
    """A number that is the same in every process, unlike hash()."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
