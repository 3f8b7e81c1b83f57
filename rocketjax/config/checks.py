"""Which options go together: those that contradict others or would change nothing are refused.

Every check raises InputError, which names the option as `place` says it was given.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from rocketjax.config.index import check_index
from rocketjax.config.loss import LossConfig, resolve_loss
from rocketjax.config.schema import Config, Depths, ListConfig, TextOptions
from rocketjax.runtime.errors import InputError, shown

# Of texts, what only one of both models reads.
OF_RETRIEVER = ("passage_length", "title", "query_prompt", "passage_prompt")
OF_RERANKER = ("pair_length", "pair_truncation")
# Options that given lists depend on.
_OF_GIVEN = ("source", "length", "positives", "easy", "after", "teacher")


def check(config: Config, place: Callable[[str], str]) -> None:
    """Checks all options of a run."""
    longest = (config.text.pair_length or 10**9) - 2
    _check_limits(place, ("text.query_length", config.text.query_length, longest))
    check_depths(config.evaluate, place)
    check_lists(config.lists, place)
    check_index(config.index, place)
    _check_widths(config.loss, place)
    _check_used(config, place)
    _check_teacher(config, place)


def check_depths(depths: Depths, place: Callable[[str], str]) -> None:
    """Refuses to re-rank more than is retrieved. Raises InputError, as `check_lists` does."""
    _check_limits(place, ("evaluate.rerank_depth", depths.rerank_depth, depths.top_k))


def check_lists(lists: ListConfig, place: Callable[[str], str]) -> None:
    """Refuses options for lists that contradict each other; `place` says where one was given.

    Raises:
        InputError: the option and what is expected of it.
    """
    if lists.easy and lists.length == 1:
        raise InputError(
            f"{place('lists.easy')}: lists of one passage have no negatives; set lists.length to 2 "
            "or more, or leave it out"
        )
    if lists.source == "given":
        _check_given(lists, place)
        return  # nothing else of them is read
    _check_limits(
        place,
        ("lists.length", lists.length, lists.top_n + 1),
        ("lists.scored", lists.scored, lists.top_n),
        ("lists.range_min", lists.range_min, lists.top_n - lists.length + 1),
        (
            "lists.min_score",
            lists.min_score or 0,
            1 if lists.max_score is None else lists.max_score,
        ),
        # Else a pseudo-positive would be a negative too.
        ("lists.low", lists.low, lists.high if lists.pseudo_positives else 1),
    )
    if lists.pseudo_positives and not lists.denoised:
        raise InputError(
            f"{place('lists.pseudo_positives')}: pseudo-positives stand in denoised lists; set "
            "lists.denoised above 0"
        )
    _check_simans(lists, place)


def mined_only(lists: ListConfig) -> dict[str, Any]:
    """What of the options only mining reads and is not as it is by default: name -> default."""
    default = dataclasses.asdict(ListConfig())
    return {
        name: default[name]
        for name, value in dataclasses.asdict(lists).items()
        if name not in _OF_GIVEN and value != default[name]
    }


def _check_given(lists: ListConfig, place: Callable[[str], str]) -> None:
    """Refuses, with given lists, what only mining reads."""
    for name, default in mined_only(lists).items():
        raise InputError(
            f"{place(f'lists.{name}')}: given lists are not mined, and nothing reads it; leave it "
            f"out (where a recipe sets it: {shown(default)}), or take lists.source mined"
        )


def _check_simans(lists: ListConfig, place: Callable[[str], str]) -> None:
    """Refuses a and b of a sampling that is another."""
    unused = [n for n in ("simans_a", "simans_b") if getattr(lists, n) != getattr(ListConfig(), n)]
    if unused and lists.sampling != "simans":
        raise InputError(
            f"{place(f'lists.{unused[0]}')}: it is of lists.sampling simans alone, and "
            f"lists.sampling is {lists.sampling}; leave it out, or take simans"
        )


def check_text(text: TextOptions, unread: Sequence[str], place: Callable[[str], str]) -> None:
    """Refuses options of texts for a model that is not opened. Raises InputError."""
    for name in unread:
        if getattr(text, name) != getattr(TextOptions(), name):
            other = "retriever" if name in OF_RETRIEVER else "re-ranker"
            raise InputError(
                f"{place(f'text.{name}')}: only a {other} reads it, and none is opened; "
                "leave it out"
            )


def _check_widths(loss: LossConfig, place: Callable[[str], str]) -> None:
    """Refuses widths that are given twice, and weights that are not one a width."""
    widths, weights = loss.matryoshka, loss.matryoshka_weights
    if len(set(widths)) < len(widths):
        raise InputError(f"{place('loss.matryoshka')}: {[*widths]} holds a width twice; delete one")
    if weights and (len(weights) != len(widths) or not any(weights)):
        raise InputError(
            f"{place('loss.matryoshka_weights')}: {len(weights)} weights for {len(widths)} widths; "
            "give one for each, not all of them 0"
        )


def _check_used(config: Config, place: Callable[[str], str]) -> None:
    """Refuses options of the loss and of lists that would change nothing."""
    loss = resolve_loss(config.loss)
    in_batch = loss.retriever_negatives == "batch" and loss.retriever_weight
    if loss.mask_by_retriever is not None and not (in_batch or config.retriever_warmup.steps):
        raise InputError(
            f"{place('loss.mask_by_retriever')}: it masks negatives from the batch, and there are "
            "none; set loss.retriever_negatives batch with a loss.retriever_weight above 0, or "
            "retriever_warmup.steps, or leave it out"
        )
    if loss.mask_by_reranker is not None and not loss.retriever_weight:
        raise InputError(
            f"{place('loss.mask_by_reranker')}: the retriever's own cross-entropy has no weight "
            f"(loss.preset {loss.preset}); leave it out"
        )
    if loss.distill_loss == "margin_mse" and loss.direction != LossConfig().direction:
        raise InputError(
            f"{place('loss.direction')}: it is of loss.distill_loss kl alone; leave it out"
        )
    if config.lists.easy and not config.reranker_warmup.steps:
        raise InputError(
            f"{place('lists.easy')}: easy lists are of the re-ranker's warm-up, which has no step; "
            "set reranker_warmup.steps, or leave it out"
        )
    if config.lists.unlabelled == "distill" and not loss.distill_weight:
        raise InputError(
            f"{place('lists.unlabelled')}: lists without a label teach by distillation alone, "
            "which has no weight; set loss.distill_weight, or lists.unlabelled pseudo"
        )


def _check_teacher(config: Config, place: Callable[[str], str]) -> None:
    """Refuses stored scores that teach nobody or miss lists, and a temperature of none."""
    loss, lists = resolve_loss(config.loss), config.lists
    if loss.teacher != "live" and not loss.distill_weight:
        raise InputError(
            f"{place('loss.teacher')}: stored scores teach by distillation, which has no weight; "
            "set loss.distill_weight, or loss.teacher live"
        )
    if loss.teacher == "live" and loss.stored_temperature is not None:
        raise InputError(
            f"{place('loss.stored_temperature')}: it divides stored scores, and loss.teacher live "
            "reads none; set loss.teacher stored or both, or leave it out"
        )
    is_stored = loss.teacher != "live" and config.joint.steps
    if is_stored and lists.source == "mined" and not lists.teacher:
        raise InputError(
            f"{place('loss.teacher')}: {loss.teacher} needs scores of mined passages, and rows "
            "bring those of their own; give lists.teacher, a cross-encoder or a run, or "
            "lists.source given, or take loss.teacher live"
        )
    if loss.teacher == "stored" and loss.stop_gradient == "retriever":
        raise InputError(
            f"{place('loss.teacher')}: stored scores can only teach the retriever, which "
            "loss.stop_gradient retriever does not move; take loss.stop_gradient reranker"
        )


def _check_limits(place: Callable[[str], str], *limits: tuple[str, float, float]) -> None:
    for name, value, limit in limits:
        if value > limit:
            raise InputError(f"{place(name)}: at most {limit} with the other options, got {value}")
