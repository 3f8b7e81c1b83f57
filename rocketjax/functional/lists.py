"""Queries and lists of passages, as texts, to a batch of arrays."""

import math
from collections.abc import Sequence

import numpy as np

from rocketjax.data.lists import TrainingList
from rocketjax.data.passages import Passage
from rocketjax.inference.start import row_widths
from rocketjax.retrieval.model import Model
from rocketjax.runtime.devices import check_divisible
from rocketjax.runtime.errors import InputError, shown
from rocketjax.text.batch import ListBatch
from rocketjax.text.tokenizer import as_texts
from rocketjax.training.loader import Collator

_MOST = float(np.finfo(np.float32).max)


def batch_of_lists(
    model: Model,
    chunk: int,
    queries: Sequence[str],
    passages: Sequence[Sequence[str]],
    devices: int,
    labelled: Sequence[bool] | None,
    scores: Sequence[Sequence[float | None]] | None,
) -> ListBatch:
    """What `Functions.tokenize_lists` gives, and raises."""
    queries = as_texts(queries, "queries")
    if not queries or len(queries) != len(passages) or not all(map(len, passages)):
        raise InputError(
            f"got {len(queries)} queries and {len(passages)} lists of passages; give each query a "
            "list with its positive first"
        )
    if labelled is not None and len(labelled) != len(queries):
        raise InputError(
            f"labelled has {len(labelled)} entries for {len(queries)} queries; give one for each, "
            "or none"
        )
    check_divisible(len(queries), devices, "tokenize_lists: queries")
    if scores is not None and [*map(len, scores)] != [*map(len, passages)]:
        raise InputError("scores: not one for each passage of each list")
    texts = {
        f"{row}/{slot}": Passage(f"{row}/{slot}", "", text)
        for row, some in enumerate(passages)
        for slot, text in enumerate(as_texts(some, f"passages[{row}]"))
    }
    lists = [
        _list_of(
            row,
            len(some),
            labelled is None or labelled[row],
            () if scores is None else _numbers(scores[row], row),
        )
        for row, some in enumerate(passages)
    ]
    collator = Collator(
        {str(row): query for row, query in enumerate(queries)},
        texts,
        model.retriever.tokenizer,
        model.reranker.tokenizer,
        slots=max(map(len, passages)),
        devices=devices,
        chunk=chunk,
        widths=row_widths(model.retriever.module.compute.attention),
        unlabelled=labelled is not None,
        stored=scores is not None,
    )
    return collator(lists)


def _list_of(
    row: int, length: int, labelled: bool, scores: tuple[float | None, ...]
) -> TrainingList:
    """The list of a row's passages, which have the ids ROW/0, ROW/1 .."""
    first, *rest = (f"{row}/{slot}" for slot in range(length))
    if labelled:
        return TrainingList(str(row), first, tuple(rest), scores=scores)
    return TrainingList(str(row), "", (first, *rest), "unlabelled", scores=scores)


def _numbers(scores: Sequence[float | None], row: int) -> tuple[float | None, ...]:
    """A list's scores. One that is not finite would make the loss of the whole batch NaN."""
    numbers = []
    for slot, score in enumerate(scores):
        try:
            number = None if score is None else float(score)
        except (TypeError, ValueError):
            number = math.nan
        if number is not None and not abs(number) <= _MOST:
            raise InputError(
                f"scores[{row}][{slot}]: {shown(score)}; give finite numbers, None where there is "
                "no score"
            )
        numbers.append(number)
    return tuple(numbers)
