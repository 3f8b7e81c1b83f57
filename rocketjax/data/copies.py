"""What says the same: passages that stand again under other ids, queries asked under several."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from rocketjax.data.collection import Qrels, relevant
from rocketjax.data.passages import Passage
from rocketjax.data.said import said
from rocketjax.runtime.progress import Advance

AT_ONCE = 16_384  # passages between two words on progress


def shared_positives(queries: Mapping[str, str], qrels: Qrels) -> dict[str, list[str]]:
    """By id of each query whose text another query has: the positives of all of them, sorted."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for query, text in queries.items():
        groups[said(text)].append(query)
    shared: dict[str, list[str]] = {}
    for group in groups.values():
        if len(group) > 1:
            positives = {pid for query in group for pid in relevant(qrels.get(query, {}))}
            shared |= dict.fromkeys(group, sorted(positives))
    return shared


def find_copies(
    passages: Mapping[str, Passage], wanted: Iterable[str], advance: Advance
) -> dict[str, bytes]:
    """What the wanted passages and all their copies say (`said`), by id.

    Goes through the corpus once and keeps nothing of the other passages. Wanted ids that it has
    not are left out.
    """
    digests: dict[bytes, bytes] = {}  # a digest to itself, so that copies share one object
    for pid in wanted:
        if passage := passages.get(pid):
            digest = said(passage.whole)
            digests[digest] = digest
    found: dict[str, bytes] = {}
    for number, passage in enumerate(passages.values() if digests else (), 1):
        if digest := digests.get(said(passage.whole)):
            found[passage.id] = digest
        if number % AT_ONCE == 0:
            advance(AT_ONCE)
    advance(len(passages) % AT_ONCE)
    return found
