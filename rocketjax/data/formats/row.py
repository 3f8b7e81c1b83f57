"""One training row: the fields of an object, or the columns of a line, to a query and passages.

formats/rows.py lists the formats. What a row holds is read, refused by name, or named in `unused`.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rocketjax.data.formats.scores import Scored, of_contexts, of_list, of_pair, of_texts
from rocketjax.data.lines import (
    BadRow,
    checked_id,
    checked_passage,
    checked_text,
    columns,
    text_or_none,
)
from rocketjax.data.passages import Passage
from rocketjax.runtime.errors import shown

# positive, positives, pos, positive_2; negative, negatives, neg, negative1, negative_1, hard_neg ..
_POSITIVE = re.compile(r"pos(itive)?s?([-_]?[0-9]+)?")
_NEGATIVE = re.compile(r"(hard[-_]?)?neg(ative)?s?([-_]?[0-9]+)?")
# Of the fields that are not read, these may hold passages, unless they say what is about them.
_PASSAGES = re.compile(r"positive|negative|(^|[^a-z])(pos|neg)s?([^a-z]|$)", re.IGNORECASE)
_ABOUT = re.compile(r"(score|logit|label|rank|type|source|idx|index|id)s?$", re.IGNORECASE)
_NEGATIVE_IDS = re.compile(r".*neg.*ids?", re.IGNORECASE)
QUERIES = ("query", "anchor", "question")
_ANSWERS = ("answers", "answer")
_CONTEXT_IDS = ("docid", "passage_id", "psg_id")
_WORD = re.compile(r"[!-~]{1,64}")  # as ids are
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?")
_LIST = re.compile(r"\s*\[\s*(['\"]).*\1\s*\]\s*", re.DOTALL)  # as pandas writes one into a cell
_WIDTHS = {
    2: "query TAB passage",
    3: "query TAB positive TAB negative",  # or query, passage, label
    4: "query TAB title TAB passage TAB label",
    6: "query TAB title TAB passage TAB title TAB negative TAB label",
}


class Row(NamedTuple):
    """A query with its passages, or with the ids of passages in a corpus."""

    id: str
    query: str
    positives: Sequence[Passage | str]
    negatives: Sequence[Passage | str]
    answers: Sequence[str] = ()
    unused: Sequence[str] = ()  # fields that hold something which nothing reads
    scored: Scored = Scored()  # a teacher's scores of the positives, then of the negatives


def row_of(fields: Mapping[str, Any]) -> Row:
    """Makes a row of a JSON object, or of the cells of a table by their columns' names.

    Raises:
        BadRow: no known format, a field is not what it should be, or one that looks like passages
            belongs to another format.
    """
    for mark, (read, known) in _FORMATS.items():
        if any(map(mark.fullmatch, fields)):
            row, used = read(fields), {*known, *_query_names(fields)[:1]}
            break
    else:
        raise BadRow(
            f"fields {', '.join(list(fields)[:20])[:200]}: none of the known formats "
            "(docs/data.md), such as query, positive and negative: a text each, or a list of texts"
        )
    used |= {name for name in fields if read is _texts and _is_text(name)}
    used |= {*row.scored.fields}
    rest = [name for name, value in fields.items() if name not in used and not _empty(value)]
    for name in rest:
        lost = bool(_NEGATIVE_IDS.fullmatch(name)) and not row.negatives
        if lost or (_PASSAGES.search(name) and not _ABOUT.search(name)):
            raise BadRow(
                f"{name[:80]}: looks like passages, but rows of this format do not have it; "
                "rename or delete the field"
            )
    return row._replace(unused=(*rest, *row.unused))


def row_of_line(line: str, width: int) -> Row:
    """Makes a row of a line of `width` columns, as all in its file. Raises BadRow."""
    if width not in _WIDTHS:
        raise BadRow(
            f"expected {', or '.join(_WIDTHS.values())}, got {width} columns: {line[:80]!r}"
        )
    query, *texts = columns(line, _WIDTHS[width])
    if width == 2:
        return _row(query, [_passage("", texts[0])], [])
    if width == 6:  # the label is that of the negative
        positive, negative = _passage(texts[0], texts[1]), _passage(texts[2], texts[3])
        return _row(query, [positive], [negative])
    *title, text, last = texts
    is_triple = width == 3 and not _NUMBER.fullmatch(last.strip())
    if width == 3 and _NUMBER.fullmatch(query.strip()):
        raise BadRow(f"expected {_WIDTHS[width]}, not ids, got {line[:80]!r}")
    yes = is_triple or _is_relevant(last.strip())
    if all(map(_WORD.fullmatch, (query, *texts))):
        raise BadRow(f"expected {_WIDTHS[width]}, not ids, got {line[:80]!r}")
    passages = [_passage("".join(title), text)]
    negatives = [_passage("", last)] if is_triple else []
    return _row(query, passages, negatives) if yes else _row(query, [], passages)


def _dpr(fields: Mapping[str, Any]) -> Row:
    names = ("positive_ctxs", "hard_negative_ctxs", "negative_ctxs")
    positives, hard, others = ([_context(p, name) for p in _list(fields, name)] for name in names)
    row = _row(fields.get("question"), positives, hard or others, answers=_answers(fields))
    left_out = names[2:] if hard and others else ()
    return row._replace(unused=(*_unused_in(fields, names), *left_out))


def _tevatron(fields: Mapping[str, Any]) -> Row:
    names = ("positive_passages", "negative_passages")
    positives, negatives = ([_context(p, name) for p in _list(fields, name)] for name in names)
    query_id, answers = fields.get("query_id"), _answers(fields)
    row = _row(fields.get("query"), positives, negatives, query_id, answers)
    scored = of_contexts({name: _list(fields, name) for name in names})
    return row._replace(unused=_unused_in(fields, names, "score"), scored=scored)


def _tevatron_ids(fields: Mapping[str, Any]) -> Row:
    names = ("positive_document_ids", "negative_document_ids")
    positives, negatives = (
        [checked_id(pid, name) for pid in _list(fields, name)] for name in names
    )
    text = fields.get("query_text") or fields.get("query")
    return _row(text, positives, negatives, fields.get("query_id"), _answers(fields))


def _texts(fields: Mapping[str, Any]) -> Row:
    """FlagEmbedding's and sentence-transformers' rows, and all that is called like theirs."""
    positives, negatives = (
        [
            _passage("", checked_text(text, name))
            for name in fields
            if pattern.fullmatch(name)
            for text in _text_or_list(fields, name)
        ]
        for pattern in (_POSITIVE, _NEGATIVE)
    )
    scored = of_texts(fields, len(positives), len(negatives))
    if str(fields.get("label")) in ("0", "0.0", "False") and "label" not in scored.fields:
        raise BadRow("label: 0, but the row has a positive; call its passage negative")
    if not positives:
        name = next(filter(_POSITIVE.fullmatch, fields))
        raise BadRow(f"{name}: expected a text or a list of texts, got {shown(fields[name])}")
    row = _row(_query_of(fields), positives, negatives, answers=_answers(fields))
    return row._replace(scored=scored)


def _is_text(name: str) -> bool:
    return bool(_POSITIVE.fullmatch(name) or _NEGATIVE.fullmatch(name))


def _labelled_list(fields: Mapping[str, Any]) -> Row:
    texts, labels = _list(fields, "docs"), _list(fields, "labels")
    if len(texts) != len(labels):
        alone = "; scores alone do not say which docs are relevant" if "scores" in fields else ""
        raise BadRow(f"labels: {len(labels)} for {len(texts)} docs{alone}")
    both = [
        (_passage("", checked_text(text, "docs")), _is_relevant(label))
        for text, label in zip(texts, labels, strict=True)
    ]
    positives, negatives = [p for p, yes in both if yes], [p for p, yes in both if not yes]
    row = _row(_query_of(fields), positives, negatives, answers=_answers(fields))
    return row._replace(scored=of_list(fields, [yes for _, yes in both]))


def _labelled_pair(fields: Mapping[str, Any]) -> Row:
    title = text_or_none(fields.get("title"), "title")
    passages = [_passage(title, checked_text(fields["passage"], "passage"))]
    both = (passages, []) if _is_relevant(fields.get("label")) else ([], passages)
    row = _row(_query_of(fields), *both, answers=_answers(fields))
    return row._replace(scored=of_pair(fields))


def _answered(fields: Mapping[str, Any]) -> Row:
    """Question and answer: the answer is the passage."""
    passages = [_passage("", checked_text(fields["answer"], "answer"))]
    return _row(_query_of(fields), passages, [], answers=_strings(fields, "answers"))


def _is_relevant(label: Any) -> bool:
    if label not in (0, 1, "0", "1", "0.0", "1.0"):  # also False and True, 0.0 and 1.0
        raise BadRow(
            f"label: expected 0 or 1, got {shown(label)}; a teacher's scores go beside the labels, "
            "into score or scores"
        )
    return label in (1, "1", "1.0")


class _Format(NamedTuple):
    read: Callable[[Mapping[str, Any]], Row]
    known: tuple[str, ...]  # its fields, apart from the query


# By a field that distinguishes each format from those after it.
_FORMATS: dict[re.Pattern[str], _Format] = {
    re.compile(mark): _Format(read, (*known, mark, *_ANSWERS))
    for mark, read, *known in (
        ("positive_ctxs", _dpr, "hard_negative_ctxs", "negative_ctxs"),
        ("positive_document_ids", _tevatron_ids, "negative_document_ids", "query_id", "query_text"),
        ("positive_passages", _tevatron, "negative_passages", "query_id"),
        (_POSITIVE.pattern, _texts),
        ("docs", _labelled_list, "labels"),
        ("passage", _labelled_pair, "title", "label"),
        ("answer", _answered),
    )
}


def _query_names(fields: Iterable[str]) -> list[str]:
    return [name for name in QUERIES if name in fields]


def _query_of(fields: Mapping[str, Any]) -> Any:
    return next((fields[name] for name in _query_names(fields)), None)


def _answers(fields: Mapping[str, Any]) -> list[str]:
    """Strings that an answering passage contains, beside positives."""
    return [text for name in _ANSWERS for text in _strings(fields, name)]


def _strings(fields: Mapping[str, Any], name: str) -> list[str]:
    return [checked_text(text, name) for text in _text_or_list(fields, name) if text != ""]


def _unused_in(fields: Mapping[str, Any], names: Sequence[str], *read: str) -> tuple[str, ...]:
    """The fields of passages that neither `_context` nor others read, as "positive_ctxs.score"."""
    known = {"title", "text", *_CONTEXT_IDS, *read}
    found = (f"{name}.{key}" for name in names for item in _list(fields, name) for key in item)
    return tuple(dict.fromkeys(name for name in found if name.partition(".")[2] not in known))


def _row(
    query: Any,
    positives: Sequence[Passage | str],
    negatives: Sequence[Passage | str],
    name: Any = None,
    answers: Sequence[str] = (),
) -> Row:
    text = checked_text(query, "query").strip()
    query_id = "q" + _digest(text) if name is None else checked_id(name, "query_id")
    return Row(query_id, text, positives, negatives, answers)


def _context(item: Any, field: str) -> Passage:
    """A passage of {title, text} and optionally docid, passage_id or psg_id."""
    if not isinstance(item, dict):
        raise BadRow(f"{field}: expected objects with title and text, got {shown(item)}")
    names = [name for name in _CONTEXT_IDS if item.get(name) is not None]
    title, text = (text_or_none(item.get(name), name) for name in ("title", "text"))
    if not names:
        return _passage(title, text)
    return checked_passage(item[names[0]], _title(title), text, names[0])


def _passage(title: str, text: str) -> Passage:
    """A passage that has no id. A title of "-" means none."""
    title = _title(title)
    text = text_or_none(text, "passage").strip()
    name = "p" + _digest(f"{title}\n{text}")
    return checked_passage(name, title, text, "passage")


def _title(text: str) -> str:
    return "" if text.strip() == "-" else text.strip()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def _text_or_list(fields: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = fields.get(name)
    if isinstance(value, str) and _LIST.fullmatch(value):
        raise BadRow(f"{name}: a list written as one text; give each text a column, or use .jsonl")
    return [value] if isinstance(value, str) else _list(fields, name)


def _list(fields: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRow(f"{name}: expected a list, got {shown(value)}")
    return value
