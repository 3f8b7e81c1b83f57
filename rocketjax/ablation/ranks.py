"""What an ablation measures, on disk: the ranks of every held-out query's relevant passages.

A line for each run that was evaluated (arm, seed, model), with a word for every held-out query in
the order of their ids: the ranks from 1 to 10 of its relevant passages, and how many it has, as
1,4/3 for two of three. /1 is left out, and 0 stands for no rank. All that the page says is computed
from these lines.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from rocketjax.retrieval.ranking import Rankings
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import write_text
from rocketjax.runtime.lock import held
from rocketjax.runtime.progress import Say

DEPTH = 10
HEAD = "arm\tseed\tmodel\tranks of what is relevant, by query"
# Before recall was measured, only the first rank was kept. Its name still heads those tables.
HEADS = (HEAD, "arm\tseed\tmodel\trank of the first hit, by query")
Key: TypeAlias = tuple[str, int, str]  # arm, seed, model


class Hits(NamedTuple):
    """Where a run has a query's relevant passages."""

    ranks: tuple[int, ...]  # ascending, 1 to DEPTH
    relevant: int = 1  # how many passages are, at least 1


Ranks: TypeAlias = dict[Key, tuple[Hits, ...]]


def hits(qrels: Mapping[str, Mapping[str, int]], run: Rankings) -> tuple[Hits, ...]:
    """The ranks of the relevant passages of every judged query, in the order of their ids."""
    return tuple(_hits(qrels[query], run.get(query, [])) for query in sorted(qrels))


def reciprocal_ranks(by_query: Sequence[Hits]) -> np.ndarray:
    """Each query's reciprocal rank [Q], whose mean is MRR@10."""
    return np.array([1 / hit.ranks[0] if hit.ranks else 0.0 for hit in by_query])


def ndcg(by_query: Sequence[Hits]) -> np.ndarray:
    """Each query's nDCG@10 [Q], with every relevant passage worth the same."""
    gains = np.cumsum(1 / np.log2(np.arange(2, DEPTH + 2)))
    best = [gains[min(hit.relevant, DEPTH) - 1] for hit in by_query]
    return np.array([sum(1 / np.log2(1 + rank) for rank in hit.ranks) for hit in by_query]) / best


def recall(by_query: Sequence[Hits]) -> np.ndarray:
    """Each query's share [Q] of its relevant passages that are among the first 10."""
    return np.array([len(hit.ranks) / hit.relevant for hit in by_query])


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
        f"{arm}\t{seed}\t{model}\t{' '.join(map(_word, by_query))}\n"
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


def _parsed(path: Path, lines: Sequence[str]) -> Iterator[tuple[Key, tuple[Hits, ...]]]:
    for number, line in enumerate(lines, 2):
        if not line or line.startswith("# ") or line in HEADS:
            continue
        try:
            arm, seed, model, by_query = line.split("\t")
            yield (arm, int(seed), model), tuple(map(_read, by_query.split(" ")))
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}; delete the line") from error


def _hits(grades: Mapping[str, int], ranking: Sequence[tuple[str, float]]) -> Hits:
    found = (rank for rank, (pid, _) in enumerate(ranking[:DEPTH], 1) if grades.get(pid, 0) > 0)
    # One that nothing answers counts, as in the metrics: it has nothing to find and finds nothing.
    return Hits(tuple(found), sum(grade > 0 for grade in grades.values()) or 1)


def _word(hit: Hits) -> str:
    ranks = ",".join(map(str, hit.ranks)) or "0"
    return ranks if hit.relevant == 1 else f"{ranks}/{hit.relevant}"


def _read(word: str) -> Hits:
    ranks, _, relevant = word.partition("/")
    found = Hits(tuple(map(int, ranks.split(","))) if ranks != "0" else (), int(relevant or 1))
    if not all(1 <= rank <= DEPTH for rank in found.ranks):
        raise ValueError(f"ranks are 0 to {DEPTH}")
    if list(found.ranks) != sorted({*found.ranks}) or found.relevant < max(1, len(found.ranks)):
        raise ValueError(f"{word}: no ranks in order, or more than there are relevant passages")
    return found
