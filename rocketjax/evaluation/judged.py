"""What a split's judgements leave open, said before anything is measured by them.

Queries that are passages of the corpus, copies of judged passages, queries without a relevant one,
and runs whose ids are not those of the split.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice

from rocketjax.config.schema import Depths
from rocketjax.data.collection import Collection, Split, relevant
from rocketjax.data.copies import find_copies
from rocketjax.data.passages import Passage
from rocketjax.data.said import said
from rocketjax.retrieval.ranking import Rankings
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say, silent

SEARCHED = 500_000  # passages of the largest corpus that is searched for copies unasked: seconds
MOST_QUERIES = 10_000  # whose ids are looked up among the passages
LOOKED_UP = 10  # passages of each query of a run that are looked up in the collection


def as_judged(split: Split, collection: Collection, depths: Depths, say: Say) -> Split:
    """The split with the judgements that count, and a line for what is odd about them.

    Raises:
        InputError: no query has a relevant passage.
    """
    name, least = collection.name, depths.relevant
    best = [max(grades.values(), default=0) for grades in split.qrels.values()]
    if not best:
        raise InputError(
            f"{name}: no query is held out to judge on; give a larger --data.hold-out, or another "
            "--data.eval-split"
        )
    if without := sum(grade < least for grade in best):
        if without == len(best):
            raise InputError(
                f"{name}: none of {without:,} judged queries has a relevant passage (of grade "
                f"{least} or more); choose another split, or correct its judgements"
            )
        say(
            f"{name}: {without:,} of {len(best):,} judged queries have no relevant passage (of "
            f"grade {least} or more) and 0 in MRR, recall and success"
        )
    if line := own_passages(split.queries, collection.by_id):
        kept = "counts; --evaluate.skip-own leaves it out, as BEIR does for ArguAna and Quora"
        say(f"{name}: {line}; this passage {'is left out' if depths.skip_own else kept}")
    if depths.copies or len(collection.passages) <= SEARCHED:
        return _with_copies(split, collection, depths, say)
    return split


def own_passages(queries: Mapping[str, str], passages: Mapping[str, Passage]) -> str:
    """How many queries have the id of a passage, and how many its text; "" where none has.

    Of many queries, the first ones are looked up.
    """
    queries = dict(islice(queries.items(), MOST_QUERIES))
    found = [(text, passages[query]) for query, text in queries.items() if query in passages]
    if not found:
        return ""
    same = sum(said(text) in (said(p.whole), said(p.text)) for text, p in found)
    of = f"{len(found):,} of {len(queries):,}"
    return f"{of} queries have the id of a passage ({same:,} have its text, too)"


def _with_copies(split: Split, collection: Collection, depths: Depths, say: Say) -> Split:
    copies = copies_of(split, collection)
    qrels = {query: _spread(grades, copies) for query, grades in split.qrels.items()}
    added = {
        pid for query, grades in qrels.items() for pid in grades.keys() - split.qrels[query].keys()
    }
    if not added:
        return split
    left = "do not count, as nobody judged them; --evaluate.copies counts them"
    say(
        f"{collection.name}: {len(added):,} copies of relevant passages, under other ids, "
        + ("count as relevant" if depths.copies else left)
    )
    return Split(split.queries, qrels, split.answers, split.negatives) if depths.copies else split


def copies_of(split: Split, collection: Collection) -> dict[str, list[str]]:
    """By the id of each passage with a grade above 0, the ids of others that say the same.

    Reads the whole corpus.
    """
    judged = {pid for grades in split.qrels.values() for pid in relevant(grades)}
    says = find_copies(collection.by_id, judged, silent)
    saying: dict[bytes, list[str]] = defaultdict(list)
    for pid, text in says.items():
        saying[text].append(pid)
    return {pid: [other for other in saying[says[pid]] if other != pid] for pid in judged}


def _spread(grades: Mapping[str, int], copies: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Grades with those of copies: the best that a copy's originals have, unless it has its own."""
    ordered = sorted(grades, key=grades.__getitem__)  # of several, the best is the last
    return {copy: grades[pid] for pid in ordered for copy in copies.get(pid, ())} | dict(grades)


def check_run(path: str, run: Rankings, split: Split, collection: Collection, say: Say) -> None:
    """Holds the ids of a run against those of the split and the collection.

    Of a query, the first `LOOKED_UP` passages are looked up.

    Raises:
        InputError: no query of the run is judged, or no passage of it is in the collection.
    """
    judged = [query for query in split.qrels if query in run]
    if not judged:
        raise InputError(
            f"{path}: none of its {len(run):,} queries is judged (the first is "
            f"{next(iter(run))!r}, the first that is judged {next(iter(split.qrels))!r}); give the "
            "split and the collection that it is a run of"
        )
    heads = (pid for query in judged for pid, _ in run[query][:LOOKED_UP])
    known = {pid: pid in collection.by_id for pid in dict.fromkeys(heads)}
    strange = [pid for pid, is_known in known.items() if not is_known]
    if known and len(strange) == len(known):
        raise InputError(
            f"{path}: none of its passages is in {collection.name} (the first is {strange[0]!r}); "
            "give the collection that it is a run of"
        )
    if missing := len(split.qrels) - len(judged):
        say(f"{path}: {missing:,} of {len(split.qrels):,} judged queries are not in it and have 0")
    if others := len(run) - len(judged):
        say(f"{path}: {others:,} of its {len(run):,} queries are not judged and do not count")
    if strange:
        say(
            f"{path}: {len(strange):,} of {len(known):,} passages ranked up to {LOOKED_UP} are not "
            f"in {collection.name} ({strange[0]!r} is the first) and are not relevant"
        )
