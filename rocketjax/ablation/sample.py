"""A sample of a collection, small enough to train and evaluate on, as a BEIR folder.

Beside what every BEIR folder holds there are request.json (what the sample was drawn from, and how)
and counts.json; and where labels are withheld, truth/train.tsv and truth/unlabelled.tsv, the
judgements as they would be with all labels. No run reads those.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from rocketjax.ablation.namesakes import with_namesakes
from rocketjax.ablation.windows import answering_windows, cut, hide
from rocketjax.data.collection import Collection, Qrels, Split
from rocketjax.data.passages import InMemory, Passage
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, read_json, write_json, write_text

REQUEST, COUNTS = "request.json", "counts.json"


@dataclass(frozen=True)
class Sizes:
    """What is drawn; of each, 0 is all there are."""

    train: int  # queries
    held_out: int  # queries of `held_out_split`
    passages: int  # at least those that are judged for these queries
    seed: int
    unlabelled: int = 0  # further training queries, whose labels are left out; here 0 is none
    hidden: float | None = None  # share of labels; None: passages and labels as they are
    held_out_split: str = "dev"


def write_sample(collection: Collection, folder: Path, sizes: Sizes) -> None:
    """Writes splits train and the held-out one with a part of the queries, and a corpus for them.

    All passages that are judged for these queries are in the corpus; others are drawn until there
    are enough. A smaller corpus is easier to search: compare figures only with each other. Windows
    are cut after that, so all windows of a drawn passage are there. A folder that holds this sample
    already stays as it is.

    Raises:
        InputError: the collection lacks one of the splits or what windows need, or the folder holds
            another sample.
    """
    request = {
        name: value for name, value in dataclasses.asdict(sizes).items() if value is not None
    }
    if not sizes.unlabelled:
        del request["unlabelled"]  # as samples were described before it was an option
    if sizes.held_out_split == "dev":
        del request["held_out_split"]  # likewise
    request |= {"collection": collection.fingerprint}
    if folder.is_dir():
        _check_same(folder, request)
        return
    drawn, counts = _draw(collection, sizes)
    truth: Mapping[str, Qrels] = {name: split.qrels for name, split in drawn.splits.items()}
    if sizes.hidden is not None:
        drawn = _with_labels(drawn, hide(truth["train"], sizes.hidden, sizes.seed))
    counts |= _counts(drawn, truth, sizes.held_out_split)
    with new_folder(folder) as aside:
        _write_collection(aside, drawn)
        withheld = [name for name in truth if name != sizes.held_out_split]
        if sizes.unlabelled or sizes.hidden is not None:
            _write_judgements(aside / "truth", {name: truth[name] for name in withheld})
        write_json(aside / COUNTS, counts)
        write_text(aside / REQUEST, json.dumps(request) + "\n")


def describe(folder: Path) -> str:
    """What a sample holds, in a line; only its folder where it was written without counts."""
    path = folder / COUNTS
    counts = read_json(path) if path.is_file() else {}
    return f"{folder}: " + "; ".join(f"{name} {number:,}" for name, number in counts.items())


def read_truth(folder: Path) -> Qrels:
    """The judgements of a sample's training queries as they would be with all labels.

    Empty for a sample that withholds none.
    """
    truth: dict[str, dict[str, int]] = {}
    for path in sorted((folder / "truth").glob("*.tsv")):
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            query, pid, grade = line.split("\t")
            truth.setdefault(query, {})[pid] = int(grade)
    return truth


def _check_same(folder: Path, request: Mapping[str, object]) -> None:
    path = folder / REQUEST
    if not path.is_file():
        raise InputError(f"{folder}: does not say what it is a sample of; choose another --folder")
    if (existing := read_json(path)) != request:
        raise InputError(
            f"{folder}: a sample of {existing}, not of {request}; choose another --folder"
        )


def _draw(collection: Collection, sizes: Sizes) -> tuple[Collection, dict[str, int]]:
    """The drawn passages and splits, and how many queries were passed over, by reason.

    With hidden labels, all that is relevant is judged: windows, or the demo's namesakes.
    """
    rng, passed = np.random.default_rng(sizes.seed), Counter()
    known, by_name = sizes.hidden is not None, collection.name == "demo"
    if known and by_name:
        collection = with_namesakes(collection)
    drawn, held_out = {}, sizes.held_out_split
    most = sizes.train + sizes.unlabelled if sizes.train else 0
    for name, number in (("train", most), (held_out, sizes.held_out)):
        queries = _order(collection.split(name), rng)
        if known:
            queries = _with_several(queries, collection, name, passed)
        drawn[name] = list(islice(queries, number or None))
    labelled = len(drawn["train"]) - sizes.unlabelled
    if sizes.unlabelled and labelled < 1:
        raise InputError(
            f"{collection.name}: --unlabelled {sizes.unlabelled} leaves none of "
            f"{len(drawn['train'])} training queries with a label; ask for fewer"
        )
    names = {"train": drawn["train"][:labelled], held_out: drawn[held_out]}
    if sizes.unlabelled:
        names["unlabelled"] = drawn["train"][labelled:]
    splits = {
        name: collection.split(held_out if name == held_out else "train").only(sorted(queries))
        for name, queries in names.items()
    }
    passages = InMemory(_corpus(collection, splits, sizes.passages, rng))
    made = Collection(collection.name, passages, splits)
    return cut(made) if known and not by_name else made, dict(passed)


def _order(split: Split, rng: np.random.Generator) -> Iterator[str]:
    """The queries that have a relevant passage, in the order they are drawn."""
    names = sorted(query for query, grades in split.qrels.items() if max(grades.values()) > 0)
    return (names[i] for i in rng.permutation(len(names)).tolist())


def _with_several(
    queries: Iterable[str], collection: Collection, name: str, passed: Counter[str]
) -> Iterator[str]:
    """Those that two passages answer, one to label and one to hide; counts the others."""
    split = collection.split(name)
    for query in queries:
        if collection.name == "demo":
            number = len(split.qrels[query])
        else:
            number = len(answering_windows(split, query, collection.by_id))
        if number > 1:
            yield query
        else:
            passed[f"{name} queries passed over, with {number} to find"] += 1


def _with_labels(drawn: Collection, labels: Qrels) -> Collection:
    train = dataclasses.replace(drawn.split("train"), qrels=labels)
    return dataclasses.replace(drawn, splits={**drawn.splits, "train": train})


def _corpus(
    collection: Collection, splits: Mapping[str, Split], size: int, rng: np.random.Generator
) -> Iterator[Passage]:
    """The judged passages and as many others as fit, in the collection's order."""
    ids = {pid for split in splits.values() for grades in split.qrels.values() for pid in grades}
    for row in rng.permutation(len(collection.passages)).tolist():
        if size and len(ids) >= size:
            break
        ids.add(collection.passages[row].id)
    return (passage for passage in collection.passages if passage.id in ids)


def _counts(drawn: Collection, truth: Mapping[str, Qrels], held_out: str) -> dict[str, int]:
    train, dev = drawn.split("train"), drawn.split(held_out)
    unlabelled = truth.get("unlabelled", {})
    relevant, labels = _number(truth["train"]), _number(train.qrels)
    return {
        "passages": len(drawn.passages),
        "training queries": len(train.qrels),
        "relevant for them": relevant,
        "of these labelled": labels,
        "of these hidden": relevant - labels,
        "unlabelled queries": len(unlabelled),
        "relevant for unlabelled ones": _number(unlabelled),
        "held-out queries": len(dev.qrels),
        "relevant for held-out ones": _number(dev.qrels),
    }


def _number(judged: Qrels) -> int:
    return sum(grade > 0 for grades in judged.values() for grade in grades.values())


def _write_collection(folder: Path, drawn: Collection) -> None:
    passages = ({"_id": p.id, "title": p.title, "text": p.text} for p in drawn.passages)
    queries = {
        query: text for split in drawn.splits.values() for query, text in split.queries.items()
    }
    _write_lines(folder / "corpus.jsonl", passages)
    _write_lines(
        folder / "queries.jsonl", ({"_id": query, "text": text} for query, text in queries.items())
    )
    # Queries in no file of judgements are read as the split "unlabelled".
    labelled = {name: split.qrels for name, split in drawn.splits.items() if name != "unlabelled"}
    _write_judgements(folder / "qrels", labelled)


def _write_lines(path: Path, rows: Iterable[object]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _write_judgements(folder: Path, judged: Mapping[str, Qrels]) -> None:
    """A file of judgements for each split."""
    folder.mkdir()
    for name, qrels in judged.items():
        lines: Sequence[str] = [
            f"{query}\t{pid}\t{grade}\n"
            for query, grades in qrels.items()
            for pid, grade in grades.items()
        ]
        write_text(folder / f"{name}.tsv", "".join(["query-id\tcorpus-id\tscore\n", *lines]))
