"""Which loss the joint stage minimises, and the presets."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rocketjax.config.fields import Amount, Finite, Positive, Size, at

Preset: TypeAlias = Literal["default", "paper", "released", "distilled", "custom"]


@dataclass(frozen=True)
class LossConfig:
    """Which loss the joint stage minimises; see rocketjax/training/losses.py."""

    preset: Preset = at("joint", "default")
    """default, paper (Eq 4-6 as printed), released (what RocketQAv2's code computes), distilled
    (the re-ranker leads, the label follows, as in CADET), or custom: only then do the fields below
    count, but retriever_negatives, retriever_temperature, teacher, stored_temperature,
    mask_by_reranker, mask_by_retriever and matryoshka, which always do. distilled goes with
    joint.optimizer.clip_by model."""
    retriever_weight: Amount = at("joint", 1.0)
    """Weight of the retriever's own cross-entropy."""
    retriever_negatives: Literal["list", "batch"] = at("joint", "list")
    """Negatives of the retriever's own cross-entropy: the rest of the query's list, or all passages
    of the step's lists, on all devices. Distillation uses the list either way."""
    reranker_weight: Amount = at("joint", 1.0)
    """Weight of the re-ranker's own loss."""
    reranker_loss: Literal["listwise", "pointwise"] = at("warm-reranker", "listwise")
    """The re-ranker's own loss, in its warm-up too: over each list, or over each passage alone."""
    distill_weight: Amount = at("joint", 0.3)
    """Weight of the distillation."""
    distill_loss: Literal["kl", "margin_mse"] = at("joint", "kl")
    """The KL divergence between the two list distributions, or the squared difference of the two
    models' margins between the positive and each negative (MarginMSE, arXiv 2010.02666)."""
    direction: Literal["teacher_student", "student_teacher"] = at("joint", "teacher_student")
    """KL(re-ranker || retriever) or KL(retriever || re-ranker); of kl alone."""
    stop_gradient: Literal["reranker", "retriever", "none"] = at("joint", "reranker")
    """Which model the distillation term does not move."""
    reduction: Literal["list", "element", "sum"] = at("joint", "list")
    """The distillation is averaged over lists, over list items, or summed over the batch."""
    distill_temperature: Positive = at("joint", 1.0)
    """Both models' scores are divided by it in the distillation."""
    teacher_temperature: Positive | None = at("joint", None)
    """The re-ranker's scores are divided by it in the distillation; None: distill_temperature."""
    teacher: Literal["live", "stored", "both"] = at("joint", "live")
    """Who teaches in the distillation: the re-ranker as it is at each step; the scores that lists
    keep (lists.teacher), which stay; or the mean of both distributions, (p_live + p_stored) / 2.
    Lists that lack a score are left out by stored, and taught by the re-ranker alone by both."""
    stored_temperature: Positive | None = at("joint", None)
    """The stored scores are divided by it: their scale is that of whoever made them (about 0.05 for
    cosines, 0.1 for probabilities, 1 for logits). None: as the re-ranker's."""
    retriever_temperature: Positive | None = at("warm-retriever", 1.0)
    """The retriever's scores are divided by it in every term. None: 0.05 for cosines, which are
    between -1 and 1 (vectors scaled to length 1), 1 for other dot products."""
    mask_by_reranker: Finite | None = at("joint", None)
    """Leave out of the retriever's own cross-entropy those passages of a query's list that the
    re-ranker, as it is at this step, scores higher than the positive by more than this (0: those
    that it puts before the label). A copy in another list of the step stays a negative
    (retriever_negatives batch). None: no passage."""
    mask_by_retriever: Finite | None = at("warm-retriever", None)
    """With negatives from the batch, in the retriever's warm-up too: leave out those that the
    retriever itself scores higher than the positive by more than this, before the temperature
    (Qwen3-Embedding, arXiv 2506.05176: 0.1, of cosines). The re-ranker scores no passage of other
    lists, so it cannot say. None: no passage."""
    matryoshka: tuple[Size, ...] = at("warm-retriever", ())
    """Widths of vectors at which the retriever's losses are computed, its own among them
    (arXiv 2205.13147): 384 128 64 trains vectors whose first 64 numbers serve too. Empty: its own
    alone."""
    matryoshka_weights: tuple[Amount, ...] = at("warm-retriever", ())
    """Weight of each of those widths; empty: the same for all, 1 together."""


PRESETS: dict[Preset, LossConfig] = {
    # Its weight of 0.3 is measured on the demo, where the teacher starts from a fresh head and is
    # at first worse than its student: the more weight it has, the less the retriever gains.
    "default": LossConfig(preset="default"),
    # Eq 4-6: L = sum KL(de || ce) + mean CE(ce); nothing is stopped, no label for the retriever.
    "paper": LossConfig(
        preset="paper",
        retriever_weight=0.0,
        distill_weight=1.0,
        direction="student_teacher",
        stop_gradient="none",
        reduction="sum",
    ),
    # Paddle's kldiv_loss: KL(ce || de), mean over B * L, its target gets no gradient.
    "released": LossConfig(
        preset="released",
        retriever_weight=0.0,
        distill_weight=1.0,
        direction="teacher_student",
        stop_gradient="reranker",
        reduction="element",
    ),
    # CADET (arXiv 2505.19274): KL 1, contrastive loss 0.1, teacher's temperature 0.3. Not measured.
    "distilled": LossConfig(
        preset="distilled",
        retriever_weight=0.1,
        distill_weight=1.0,
        teacher_temperature=0.3,
    ),
}


def resolve_loss(loss: LossConfig) -> LossConfig:
    """The weights and options a preset stands for; the retriever's temperature, negatives, masks
    and widths, and who teaches, stay as set."""
    if loss.preset == "custom":
        return loss
    return dataclasses.replace(
        PRESETS[loss.preset],
        retriever_temperature=loss.retriever_temperature,
        retriever_negatives=loss.retriever_negatives,
        mask_by_reranker=loss.mask_by_reranker,
        mask_by_retriever=loss.mask_by_retriever,
        teacher=loss.teacher,
        stored_temperature=loss.stored_temperature,
        matryoshka=loss.matryoshka,
        matryoshka_weights=loss.matryoshka_weights,
    )


def overruled(loss: LossConfig) -> list[str]:
    """Options that were set but do not count, as "loss.distill_weight 1.0 (0.3 counts)"."""
    default, counts = LossConfig(), resolve_loss(loss)
    names = [field.name for field in dataclasses.fields(loss) if field.name != "preset"]
    return [
        f"loss.{name} {getattr(loss, name)} ({getattr(counts, name)} counts)"
        for name in names
        if getattr(loss, name) not in (getattr(default, name), getattr(counts, name))
    ]


def preset_line(loss: LossConfig) -> str:
    """What a preset sets and which options it leaves without effect; "" where there are none.

    An option that was set to its own default cannot be told from one that was left out. So all is
    said that the preset changes.
    """
    default, counts = LossConfig(), resolve_loss(loss)
    preset = PRESETS.get(loss.preset, default)  # custom sets nothing
    names = [field.name for field in dataclasses.fields(loss) if field.name != "preset"]
    parts = [
        f"{name} {getattr(preset, name)}"
        for name in names
        if getattr(preset, name) != getattr(default, name)
    ]
    if ignored := overruled(loss):
        parts.append(f"it overrules {', '.join(ignored)}; custom would not")
    if loss.retriever_negatives == "batch" and not counts.retriever_weight:
        parts.append("joint training does not read loss.retriever_negatives: no retriever_weight")
    return f"loss.preset {loss.preset}: {'; '.join(parts)}" if parts else ""
