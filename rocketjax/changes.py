"""Which stage an option first matters to: what a run may take over that goes on with others."""

import dataclasses
from collections.abc import Mapping
from typing import get_args

from rocketjax.config import Config, Stage, resolve_loss
from rocketjax.options import changed

ORDER: tuple[Stage, ...] = get_args(Stage)
# By the start of an option's name, the longest that fits.
CHANGES: Mapping[str, Stage] = {
    "": "start",
    "retriever.dropout": "warm-retriever",
    "retriever.keep": "joint",
    "reranker.dropout": "warm-reranker",
    "checkpoint.": "warm-retriever",
    "compute.chunk": "warm-retriever",
    "compute.remat": "warm-retriever",
    "compute.parallel": "warm-retriever",
    "lists.": "mine",
    "lists.source": "encode",  # given lists need no index
    "lists.length": "warm-reranker",
    "lists.top_n": "warm-reranker",
    "lists.positives": "warm-reranker",
    "lists.pseudo_positives": "warm-retriever",  # unlabelled queries are drawn among the others
    "joint.": "mine",  # steps and batch decide how many queries are mined for
    "joint.optimizer.": "joint",
    "loss.": "joint",
    "loss.reranker_loss": "warm-reranker",
    "loss.retriever_temperature": "warm-retriever",
    "reranker_warmup.": "warm-reranker",
    "retriever_warmup.": "warm-retriever",
    "evaluate.": "evaluate",
    "evaluate.every_queries": "joint",
}


def changes(old: Config, new: Config) -> dict[str, Stage]:
    """The options in which two configs would train differently, and the first stage of each.

    A loss preset counts as the options that it stands for.
    """
    old, new = (dataclasses.replace(one, loss=resolve_loss(one.loss)) for one in (old, new))
    return {
        name: CHANGES[max((start for start in CHANGES if name.startswith(start)), key=len)]
        for name in changed(old, new)
    }
