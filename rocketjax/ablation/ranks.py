"""What an ablation measures, on disk: the rank of every held-out query's first relevant passage.

A line for each run that was evaluated (arm, seed, model), with the rank (1 to 10, 0: none) for
every held-out query in the order of their ids. All that the page says is computed from these lines.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from rocketjax.retrieval.ranking import Rankings
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import write_text
from rocketjax.runtime.lock import held
from rocketjax.runtime.progress import Say

DEPTH = 10
HEAD = "arm\tseed\tmodel\trank of the first hit, by query"
Key: TypeAlias = tuple[str, int, str]  # arm, seed, model
Ranks: TypeAlias = dict[Key, tuple[int, ...]]


def first_hits(qrels: Mapping[str, Mapping[str, int]], run: Rankings) -> tuple[int, ...]:
    """The rank of the first relevant passage of every judged query."""
    return tuple(_first(qrels[query], run.get(query, [])) for query in sorted(qrels))


def reciprocal(ranks: Sequence[int]) -> np.ndarray:
    """Each query's reciprocal rank [Q], whose mean is MRR@10."""
    values = np.array(ranks, np.float64)
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


def add_ranks(
    path: Path, title: str, arms: Mapping[str, str], known: Ranks, new: Ranks, say: Say
) -> Ranks:
    """Adds new ranks to those in a file, and returns all of them.

    The file is read again and locked meanwhile: commands that run side by side share it.

    Args:
        arms: the fingerprints of the configs as they are now.
        known: ranks that were read from the file before.

    Raises:
        InputError: as `read_ranks`.
    """
    with held(path.parent, say, wait=True):
        in_file, fingerprints = read_ranks(path, title, arms)
        fingerprints |= {arm: arms[arm] for arm, _, _ in new if arm in arms}
        ranks = in_file | known | new
        write_ranks(path, title, fingerprints, ranks)
    return ranks


def write_ranks(path: Path, title: str, arms: Mapping[str, str], ranks: Ranks) -> None:
    """Writes the file, whole or not at all.

    Args:
        title: what the ranks are of, in one line.
        arms: the fingerprints of the configs that the arms were trained by, where known.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"# {title}\n"]
    rows += [f"# {arm}: {arms[arm]}\n" for arm in sorted(arms)]
    rows += [f"{HEAD}\n"]
    rows += [
        f"{arm}\t{seed}\t{model}\t{' '.join(map(str, by_query))}\n"
        for (arm, seed, model), by_query in sorted(ranks.items())
    ]
    write_text(path, "".join(rows))


def read_ranks(path: Path, title: str, arms: Mapping[str, str]) -> tuple[Ranks, dict[str, str]]:
    """The ranks and fingerprints of `write_ranks`; none where there is no file.

    Args:
        arms: the fingerprints of the configs as they are now.

    Raises:
        InputError: the file has another title, an arm has another config now, or a line is damaged.
    """
    if not path.is_file():
        return {}, {}
    head, *lines = [*path.read_text(encoding="utf-8").splitlines(), ""]
    if head != f"# {title}":
        raise InputError(
            f"{path}: holds results of {head!r}, not of {title!r}; choose another --results"
        )
    fingerprints = dict(_fingerprints(path, lines, arms))
    return dict(_parsed(path, lines)), fingerprints


def _fingerprints(
    path: Path, lines: Sequence[str], arms: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 2):
        if line.startswith("# "):
            arm, _, recorded = line.removeprefix("# ").partition(": ")
            if arms.get(arm, recorded) != recorded:
                raise InputError(
                    f"{path}:{number}: {arm} was trained with another config than it has now; "
                    "delete its lines, or choose another --results"
                )
            yield arm, recorded


def _parsed(path: Path, lines: Sequence[str]) -> Iterator[tuple[Key, tuple[int, ...]]]:
    for number, line in enumerate(lines, 2):
        if not line or line.startswith("# ") or line == HEAD:
            continue
        try:
            arm, seed, model, by_query = line.split("\t")
            ranks = tuple(map(int, by_query.split(" ")))
            if not all(0 <= rank <= DEPTH for rank in ranks):
                raise ValueError(f"ranks are 0 to {DEPTH}")
            yield (arm, int(seed), model), ranks
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}; delete the line") from error


def _first(grades: Mapping[str, int], ranking: Sequence[tuple[str, float]]) -> int:
    hits = (rank for rank, (pid, _) in enumerate(ranking[:DEPTH], 1) if grades.get(pid, 0) > 0)
    return next(hits, 0)
