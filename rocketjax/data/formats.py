"""Files of the field: BEIR folders and queries in, TREC runs in and out."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rocketjax.data.collection import Collection, Passage, Split
from rocketjax.data.lines import checked_id, checked_text, finite, json_lines, lines, text_or_none
from rocketjax.errors import InputError
from rocketjax.files import write_text


def read_beir(folder: Path) -> Collection:
    """corpus.jsonl {_id, title, text}, queries.jsonl {_id, text}, qrels/SPLIT.tsv.

    And, where there is one, answers.jsonl {_id, answers: [..]}: strings that answer a query.
    Queries that no qrels file judges make the split "unlabelled", unless qrels/unlabelled.tsv
    makes one by that name: then they are in none.

    Raises:
        InputError: a file is missing, a line is not what it should be, an id stands twice or holds
            white space, a text is empty, or a judgement points nowhere or contradicts another;
            file, line and field are named.
    """
    for name in ("corpus.jsonl", "queries.jsonl"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name}: missing; a BEIR folder has corpus.jsonl and queries.jsonl"
            )
    passages: dict[str, Passage] = {}
    for place, row in json_lines(folder / "corpus.jsonl"):
        title, text = (text_or_none(row, name, place) for name in ("title", "text"))
        passage = Passage(checked_id(row, place), title, text)
        if not (passage.title.strip() or passage.text.strip()):
            raise InputError(f"{place}: text: passage {passage.id!r} is empty; give it a text")
        if passage.id in passages:
            raise InputError(f"{place}: _id: {passage.id!r} stands twice; ids must be unique")
        passages[passage.id] = passage
    queries = read_queries(folder / "queries.jsonl")
    answers = _read_answers(folder / "answers.jsonl", queries)
    if not passages:
        raise InputError(f"{folder / 'corpus.jsonl'}: the corpus is empty")
    splits = {
        path.stem: _read_split(path, queries, passages, answers)
        for path in sorted((folder / "qrels").glob("*.tsv"))
    }
    if not splits:
        raise InputError(f"{folder}/qrels: no judgements; a BEIR folder has qrels/train.tsv there")
    judged = {query for split in splits.values() for query in split.qrels}
    unlabelled = {query: text for query, text in queries.items() if query not in judged}
    if unlabelled:
        known = {query: answers[query] for query in unlabelled if query in answers}
        splits.setdefault("unlabelled", Split(unlabelled, {}, known))
    return Collection(folder.name, list(passages.values()), splits)


def write_run(path: Path, run: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> None:
    """A TREC run: query Q0 passage rank score tag, best first; scores as exact as float32."""
    rows = [
        f"{query} Q0 {pid} {rank} {score:.9g} {tag}\n"
        for query, ranked in run.items()
        for rank, (pid, score) in enumerate(ranked, 1)
    ]
    write_text(path, "".join(rows))


def read_run(path: Path) -> dict[str, list[tuple[str, float]]]:
    """A TREC run: query id -> (passage id, score), by score, of equal ones by rank.

    Columns are divided by any ASCII white space; a name that ends in .gz is unpacked. (trec_eval
    ignores the rank, and takes equal scores by passage id.)

    Raises:
        InputError: no file, an empty one, a line that is no such row, a score that is no finite
            number, or a passage that stands twice for a query; file, line and field are named.
    """
    rows: dict[str, dict[str, tuple[float, float]]] = {}
    for place, line in lines(path):
        columns = re.findall(r"\S+", line, re.ASCII)
        if not columns:
            continue
        if len(columns) != 6:
            raise InputError(f"{place}: expected query Q0 passage rank score tag, got {line!r}")
        query, _, pid, rank, score, _ = columns
        number = finite(score, f"{place}: score")
        position = finite(rank, f"{place}: rank")
        if pid in rows.setdefault(query, {}):
            raise InputError(f"{place}: passage: {pid!r} stands twice for query {query!r}")
        rows[query][pid] = (-number, position)
    if not rows:
        raise InputError(f"{path}: holds no ranking")
    return {
        query: [(pid, -found[pid][0]) for pid in sorted(found, key=found.__getitem__)]
        for query, found in rows.items()
    }


def read_queries(path: Path) -> dict[str, str]:
    """Queries by id: .tsv (id TAB text), .jsonl ({_id, text}) or .txt (a line each: 1, 2, ..).

    Raises:
        InputError: no file, one by another name, an id that stands twice or holds white space, an
            empty text, or no query at all.
    """
    if path.suffix not in (".tsv", ".jsonl", ".txt"):
        raise InputError(
            f"{path}: queries are read from .tsv (id TAB text), .jsonl ({{_id, text}}) or .txt "
            "(one a line)"
        )
    rows = json_lines(path) if path.suffix == ".jsonl" else _text_lines(path)
    queries: dict[str, str] = {}
    for place, row in rows:
        query = checked_id(row, place)
        if query in queries:
            raise InputError(f"{place}: _id: {query!r} stands twice; ids must be unique")
        queries[query] = checked_text(row, "text", place)
    if not queries:
        raise InputError(f"{path}: holds no query")
    return queries


def _text_lines(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows as of a .jsonl, from a .tsv or .txt; empty lines are passed over."""
    for number, (place, line) in enumerate(lines(path), 1):
        query, tab, text = line.rstrip("\r\n").partition("\t")
        if not line.strip():
            continue
        if path.suffix == ".txt":
            yield place, {"_id": str(number), "text": line.strip()}
        elif tab:
            yield place, {"_id": query, "text": text}
        else:
            raise InputError(f"{place}: expected id TAB text, got {line!r}")


def _read_answers(path: Path, queries: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    answers: dict[str, tuple[str, ...]] = {}
    for place, row in json_lines(path) if path.is_file() else ():
        query, texts = checked_id(row, place), row.get("answers")
        if query not in queries:
            raise InputError(f"{place}: _id: {query!r} is not in queries.jsonl")
        if query in answers:
            raise InputError(f"{place}: _id: {query!r} stands twice; ids must be unique")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{place}: answers: expected a list of texts, got {texts!r}")
        answers[query] = tuple(texts)
    return answers


def _read_split(
    path: Path,
    queries: Mapping[str, str],
    passages: Mapping[str, Passage],
    answers: Mapping[str, Sequence[str]],
) -> Split:
    qrels: dict[str, dict[str, int]] = {}
    header = True  # the first line names the columns
    for place, line in lines(path):
        columns = line.rstrip("\r\n").split("\t")
        judgement = len(columns) == 3 and re.fullmatch(r"-?[0-9]+", columns[2])
        if header and judgement:
            raise InputError(f"{place}: expected the line query-id, corpus-id, score first")
        if header or not line.strip():
            header = False
            continue
        if not judgement:
            raise InputError(f"{place}: expected query-id, corpus-id, score, got {line!r}")
        query, pid, grade = columns[0], columns[1], int(columns[2])
        if query not in queries:
            raise InputError(f"{place}: query-id: {query!r} is not in queries.jsonl")
        if pid not in passages:
            raise InputError(f"{place}: corpus-id: {pid!r} is not in corpus.jsonl")
        before = qrels.setdefault(query, {}).setdefault(pid, grade)
        if before != grade:
            raise InputError(
                f"{place}: score: {grade}, but {query!r} with {pid!r} had {before}; keep one line"
            )
    return Split(
        {query: queries[query] for query in qrels},
        qrels,
        {query: answers[query] for query in qrels if query in answers},
    )
