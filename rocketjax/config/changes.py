"""Which stage an option first matters to: what a run may take over that goes on with others."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from rocketjax.config.fields import Stage
from rocketjax.config.loss import resolve_loss
from rocketjax.config.schema import Config

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


def differences(old: Config, new: Config) -> list[str]:
    """The fields, as "joint.steps: 24 -> 48", in which two configs would train differently."""
    return [f"{name}: {before} -> {after}" for name, (before, after) in changed(old, new).items()]


def changed(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs would train differently, with their values in both."""
    before, after = training_fields(old), training_fields(new)
    both = [name for name in after if name in before]
    return {name: (before[name], after[name]) for name in both if before[name] != after[name]}


def training_fields(config: Config) -> dict[str, Any]:
    """All fields by their dotted names, but those that change nothing of what is trained.

    More bad steps than were met until now are as if they had been allowed from the start.
    """
    free = {"overwrite", "stages", "from_stage", "run_dir", "name"}
    free |= {"checkpoint.keep", "evaluate.every"}
    if config.checkpoint.take == "last":  # only what was kept can be the best
        free |= {"checkpoint.every"}
    fields = _flat(dataclasses.asdict(config))
    return {
        name: value
        for name, value in fields.items()
        if name not in free
        and not name.endswith(".max_bad_steps")
        and not name.startswith(("hosts.", "log."))
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"joint": {"steps": 1}} -> {"joint.steps": 1}."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        result |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return result
