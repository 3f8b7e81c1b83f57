"""What an ablation measures, on disk: at which rank each held-out query's first hit stands.

A line a judged run (arm, seed, model), with the rank (1 to 10, 0: none) for every held-out query in
the order of their ids. All that the page says is made of these lines.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from rocketjax.retrieval.ranking import Scored
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import write_text

DEPTH = 10


HEAD = "arm\tseed\tmodel\trank of the first hit, by query"


Key: TypeAlias = tuple[str, int, str]  # arm, seed, model


Ranks: TypeAlias = dict[Key, tuple[int, ...]]


def first_hits(qrels: Mapping[str, Mapping[str, int]], run: Scored) -> tuple[int, ...]:
    """The rank of the first relevant passage of every judged query."""
    return tuple(_first(qrels[query], run.get(query, [])) for query in sorted(qrels))


def reciprocal(ranks: Sequence[int]) -> np.ndarray:
    """Each query's reciprocal rank [Q], whose mean is MRR@10."""
    found = np.array(ranks, np.float64)
    return np.divide(1.0, found, out=np.zeros_like(found), where=found > 0)


def write_ranks(path: Path, title: str, arms: Mapping[str, str], ranks: Ranks) -> None:
    """Whole or not at all.

    Args:
        title: says of what they are, in one line.
        arms: the fingerprints of the configs by which arms were judged, as far as they are known.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"# {title}\n"]
    rows += [f"# {arm}: {arms[arm]}\n" for arm in sorted(arms)]
    rows += [f"{HEAD}\n"]
    rows += [
        f"{arm}\t{seed}\t{model}\t{' '.join(map(str, found))}\n"
        for (arm, seed, model), found in sorted(ranks.items())
    ]
    write_text(path, "".join(rows))


def read_ranks(path: Path, title: str, arms: Mapping[str, str]) -> tuple[Ranks, dict[str, str]]:
    """The ranks and fingerprints of `write_ranks`; none where there is no file.

    Args:
        arms: the fingerprints of the configs as they are now.

    Raises:
        InputError: they are of something else than `title`, an arm's are of another config than it
            has now, or a line is damaged.
    """
    if not path.is_file():
        return {}, {}
    head, *lines = [*path.read_text(encoding="utf-8").splitlines(), ""]
    if head != f"# {title}":
        raise InputError(f"{path}: is of {head!r}, not of {title!r}; choose another --results")
    known = dict(_fingerprints(path, lines, arms))
    return dict(_parsed(path, lines)), known


def _fingerprints(
    path: Path, lines: Sequence[str], arms: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 2):
        if line.startswith("# "):
            arm, _, known = line.removeprefix("# ").partition(": ")
            if arms.get(arm, known) != known:
                raise InputError(
                    f"{path}:{number}: {arm} was judged with another config than it has now; "
                    "delete its lines, or choose another --results"
                )
            yield arm, known


def _parsed(path: Path, lines: Sequence[str]) -> Iterator[tuple[Key, tuple[int, ...]]]:
    for number, line in enumerate(lines, 2):
        if not line or line.startswith("# ") or line == HEAD:
            continue
        try:
            arm, seed, model, found = line.split("\t")
            ranks = tuple(map(int, found.split(" ")))
            if not all(0 <= rank <= DEPTH for rank in ranks):
                raise ValueError(f"ranks are 0 to {DEPTH}")
            yield (arm, int(seed), model), ranks
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}; delete the line") from error


def _first(judged: Mapping[str, int], ranked: Sequence[tuple[str, float]]) -> int:
    hits = (rank for rank, (pid, _) in enumerate(ranked[:DEPTH], 1) if judged.get(pid, 0) > 0)
    return next(hits, 0)
