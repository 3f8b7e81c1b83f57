"""A teacher's scores in training rows: of which passages, and in which fields.

FlagEmbedding           pos_scores and neg_scores, one for each text of pos and of neg
sentence-transformers   label, labels, score or scores, all alike: a list, of the positives, then
                        of the negatives; with one positive, a number for each negative alone: by
                        how much the positive's score is above the negative's (MarginMSE)
                        docs, labels and scores; passage, label and score
Tevatron                score of each passage

Their scale is the file's affair: logits, probabilities, cosines. A label of 0 or 1 is a judgement
and no score, unless it is a margin: a number for each negative of one positive. DPR's scores are
those of the retriever that found the passages, and are not read.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from rocketjax.data.lines import BadRow
from rocketjax.runtime.errors import shown

Score: TypeAlias = float | None  # None: the passage has none

# pos_scores, positive_score .. and the same of negatives
_OF_ONE_KIND = re.compile(r"(pos|neg)(itive|ative)?s?[-_]?scores?")
_OF_ALL = ("teacher_scores", "scores", "score", "label", "labels")
_LABELS = ("label", "labels")  # these may hold judgements


class Scored(NamedTuple):
    """The scores of a row's passages."""

    scores: Sequence[Score] = ()  # of the positives, then of the negatives; empty: none at all
    fields: Sequence[str] = ()  # that hold them
    margins: bool = False  # they are relative to the row's only positive, which has 0


def of_texts(fields: Mapping[str, Any], positives: int, negatives: int) -> Scored:
    """Those of a row of texts with so many positives and negatives.

    Raises:
        BadRow: not as many scores as texts, or one is not a finite number.
    """
    known = [name for name in fields if _OF_ONE_KIND.fullmatch(name)]
    if names := [name for name in known if not _empty(fields[name])]:
        counts = {"pos": positives, "neg": negatives}
        scores: dict[str, list[Score]] = {kind: [None] * count for kind, count in counts.items()}
        for name in names:
            scores[name[:3]] = _numbers(fields[name], name, counts[name[:3]])
        return Scored([*scores["pos"], *scores["neg"]], names)
    for name in _OF_ALL:
        value = fields.get(name)
        margin = positives == 1 and _count(value) == negatives > 0
        if _is_numeric(value) and not (name in _LABELS and _is_judgement(value, margin)):
            return _of_all(value, name, positives, negatives)
    return Scored()


def of_list(fields: Mapping[str, Any], relevant: Sequence[bool]) -> Scored:
    """Those of docs, which are relevant or not, in the order of a row. Raises BadRow."""
    if _empty(fields.get("scores")):
        return Scored()
    scores = _numbers(fields["scores"], "scores", len(relevant))
    both = list(zip(scores, relevant, strict=True))
    return Scored([s for s, yes in both if yes] + [s for s, yes in both if not yes], ["scores"])


def of_pair(fields: Mapping[str, Any]) -> Scored:
    """That of the one passage of a row. Raises BadRow."""
    if not _is_numeric(fields.get("score")):
        return Scored()
    return Scored(_numbers(fields["score"], "score", 1), ["score"])


def of_contexts(kinds: Mapping[str, Sequence[Mapping[str, Any]]]) -> Scored:
    """Those of passages that are objects with a score, by their field. Raises BadRow."""
    scores = [
        None if item.get("score") is None else _number(item["score"], f"{name}.score")
        for name, items in kinds.items()
        for item in items
    ]
    if all(score is None for score in scores):
        return Scored()
    return Scored(scores, [f"{name}.score" for name, items in kinds.items() if items])


def _of_all(value: Any, name: str, positives: int, negatives: int) -> Scored:
    """Scores of all passages, or margins between the one positive and each negative."""
    count = _count(value)
    if count == positives + negatives:
        return Scored(_numbers(value, name, count), [name])
    if positives != 1 or count != negatives:
        raise BadRow(
            f"{name}: {count} scores for {positives} positives and {negatives} negatives; give one "
            "for each, the positives first, or, with one positive, its margin over each negative"
        )
    margins = _numbers(value, name, count)
    return Scored([0.0, *(None if m is None else -m for m in margins)], [name], margins=True)


def _numbers(value: Any, name: str, count: int) -> list[Score]:
    values = value if _is_list(value) else [value]
    if len(values) != count:
        raise BadRow(f"{name}: {len(values)} scores for {count} passages; give one for each")
    return [None if one is None else _number(one, name) for one in values]


def _number(value: Any, name: str) -> float:
    """A finite number, in a table as text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"{name}: expected finite numbers, got {shown(value)}")
    return number


def _is_numeric(value: Any) -> bool:
    """Whether it is a number, as text too, or a list of numbers, some of which may be None."""
    values = value if _is_list(value) else [value]
    return any(one is not None for one in values) and all(
        one is None or isinstance(one, int | float) or _is_number(one) for one in values
    )


def _is_number(text: Any) -> bool:
    return isinstance(text, str) and bool(re.fullmatch(r"\s*[-+0-9.eE]*[0-9][-+0-9.eE]*\s*", text))


def _is_judgement(value: Any, margin: bool) -> bool:
    """Whether labels say what is relevant. Those that may be margins do where they are booleans."""
    values = value if _is_list(value) else [value]
    if margin:
        return any(isinstance(one, bool) for one in values)
    return all(one in (0, 1, "0", "1", "0.0", "1.0", None) for one in values)


def _count(value: Any) -> int:
    return len(value) if _is_list(value) else 1


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | Sequence) and not value)
