"""How many of a split's texts are longer than models read: what is beyond is cut off."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from rocketjax.data.collection import Split, relevant
from rocketjax.data.passages import InMemory, StoredPassages
from rocketjax.text.batch import Text
from rocketjax.text.tokenizer import Tokenizer

SAMPLE = 2_000  # texts of a kind that are measured, evenly spread over all there are
_ENDLESS = 2**30  # tokens

Item = TypeVar("Item")


def cut_line(
    name: str,
    split: Split,
    passages: StoredPassages | InMemory,
    retriever: Tokenizer | None,
    reranker: Tokenizer | None,
) -> str:
    """What is cut: "train: cut at text.query_length 16: 75.0% of 20 queries; at ..".

    Of more than `SAMPLE` queries, passages or pairs that many are measured, which the line says.
    A pair is a query and a passage relevant to it. "" where nothing is cut.

    Args:
        retriever: reads queries and passages; None: nobody does.
        reranker: reads pairs; None: nobody does.
    """
    found = []
    if retriever:
        whole, config = _uncut(retriever), retriever.config
        texts = whole.query([split.queries[query] for query in _some(list(split.queries))])
        found.append(_cut("query", config.query_length, texts, len(split.queries)))
        some = _some(passages)
        texts = whole.passage([p.title for p in some], [p.text for p in some])
        found.append(_cut("passage", config.passage_length, texts, len(passages)))
    if reranker:
        ids = [(query, pid) for query, judged in split.qrels.items() for pid in relevant(judged)]
        pairs = [(split.queries[query], passages.by_id[pid]) for query, pid in _some(ids)]
        titles, bodies = [p.title for _, p in pairs], [p.text for _, p in pairs]
        texts = _uncut(reranker).pair([text for text, _ in pairs], titles, bodies)
        found.append(_cut("pair", reranker.config.pair_length, texts, len(ids)))
    parts = list(filter(None, found))
    return f"{name}: cut {'; '.join(parts)}" if parts else ""


def _some(items: Sequence[Item]) -> list[Item]:
    step = max(1, -(-len(items) // SAMPLE))
    return [items[i] for i in range(0, len(items), step)]


def _uncut(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, which reads texts of any length."""
    lengths = dict.fromkeys(("query_length", "passage_length", "pair_length"), _ENDLESS)
    whole = copy.copy(tokenizer)
    whole.config = dataclasses.replace(tokenizer.config, **lengths)
    return whole


def _cut(kind: str, longest: int, texts: Sequence[Text], total: int) -> str:
    """The share of texts of a kind that are longer; "" where none is."""
    cut = sum(len(text.ids) > longest for text in texts)
    if not cut:
        return ""
    plural = {"query": "queries", "passage": "passages", "pair": "pairs"}[kind]
    count = f"{total:,}" if len(texts) == total else f"a sample of {len(texts):,}"
    return f"at text.{kind}_length {longest}: {cut / len(texts):.1%} of {count} {plural}"
