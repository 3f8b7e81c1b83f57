"""What an arm's lists hold that only the truth tells: negatives that answer, pseudo-positives that
do not.

Kept beside the ranks as NAME.json, by arm and seed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rocketjax.data.collection import Qrels
from rocketjax.data.lists import TrainingList
from rocketjax.runtime.files import read_object, write_json
from rocketjax.runtime.lock import held
from rocketjax.runtime.progress import Say

KINDS = ("undenoised", "denoised")


def count(lists: Sequence[TrainingList], truth: Qrels) -> dict[str, int]:
    """How many lists and negatives there are of each kind, and how many of those are relevant."""
    counts = {}
    for kind in KINDS:
        of_kind = [item for item in lists if item.kind == kind]
        relevant = [
            sum(truth[item.query].get(pid, 0) > 0 for pid in item.negatives) for item in of_kind
        ]
        counts |= {
            f"{kind} lists": len(of_kind),
            f"{kind} lists with a hidden one": sum(number > 0 for number in relevant),
            f"{kind} negatives": sum(len(item.negatives) for item in of_kind),
            f"{kind} negatives hidden": sum(relevant),
        }
    pseudo = {(item.query, item.positive) for item in lists if item.pseudo}
    right = sum(truth[query].get(pid, 0) > 0 for query, pid in pseudo)
    return counts | {"pseudo-positives": len(pseudo), "pseudo-positives right": right}


def record(path: Path, arm: str, seed: int, counts: Mapping[str, int], say: Say) -> None:
    """Adds an arm's counts to the file, which commands that run side by side share."""
    with held(path.parent, say, wait=True):
        known = read_object(path) if path.is_file() else {}
        write_json(path, dict(sorted((known | {f"{arm} {seed}": dict(counts)}).items())))


def table(path: Path) -> str:
    """A Markdown table with a row for each arm and seed; empty where nothing was counted."""
    if not path.is_file():
        return ""
    lines = [
        "| arm and seed | hidden among the negatives of undenoised lists | lists with one | of "
        "denoised ones | lists with one | pseudo-positives that are relevant |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, counts in read_object(path).items():
        cells = [
            _share(counts, f"{kind} {part}", f"{kind} {whole}")
            for kind in KINDS
            for part, whole in (
                ("negatives hidden", "negatives"),
                ("lists with a hidden one", "lists"),
            )
        ]
        cells.append(_share(counts, "pseudo-positives right", "pseudo-positives"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(counts: Mapping[str, int], part: str, whole: str) -> str:
    return f"{counts[part]:,} of {counts[whole]:,}" if counts[whole] else ""
