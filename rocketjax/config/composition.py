"""Which candidates become negatives, by a teacher's scores, and whose scores lists keep."""

from dataclasses import dataclass
from typing import Literal

from rocketjax.config.fields import Amount, Count, Finite, Whole, at


@dataclass(frozen=True)
class Composition:
    """Those of the options of lists that a teacher's scores are for; see mining/rules.py."""

    teacher: str = at("mine", "")
    """Whose scores the joint stage's lists keep (`loss.teacher` says whether they teach): those of
    a cross-encoder, by folder or hub name, which takes the re-ranker's place in mining, too; or of
    a file, a TREC run of one. Empty: those that the training rows came with, if they have some."""
    range_min: Count = at("warm-reranker", 0)
    """Negatives come from behind this many of the retriever's best passages."""
    max_score: Whole | None = at("mine", None)
    """No negative has a probability above this. A probability is what `calibration` makes of the
    score by the re-ranker, or by a teacher that is a cross-encoder; scores of a file or of the
    training rows rule nothing. Any rule by score has top_n passages scored."""
    min_score: Whole | None = at("mine", None)
    """No negative has a probability below this."""
    absolute_margin: Whole | None = at("mine", None)
    """A negative's probability is at least this below the positive's (TopK-MarginPos of
    NV-Retriever, arXiv 2407.15831)."""
    relative_margin: Whole | None = at("mine", None)
    """A negative's probability is below the positive's by at least this share of it: 0.05 keeps
    negatives up to 95 % of the positive's (TopK-PercPos of NV-Retriever)."""
    sampling: Literal["uniform", "top", "stratified", "simans"] = at("mine", "uniform")
    """How negatives are drawn from what the rules leave: uniformly; the retriever's best; one from
    each of as many strata, equally large, of the passages by score (after arXiv 2604.04734); or by
    SimANS (arXiv 2210.11773), with probabilities in proportion to exp(-a (s - s_pos - b)^2) of raw
    scores. Of all kinds of lists alike (a list without a label takes the retriever's best passage
    for its positive); the re-ranker's warm-up always draws uniformly."""
    simans_a: Amount = at("mine", 0.5)
    """SimANS's a: how narrowly negatives are drawn around the positive's score plus b."""
    simans_b: Finite = at("mine", 0.0)
    """SimANS's b, in units of the scores."""


# The re-ranker of a warm-up has learnt nothing yet: its scores rule nothing.
UNRULED = {
    "teacher": "",
    "max_score": None,
    "min_score": None,
    "absolute_margin": None,
    "relative_margin": None,
    "sampling": "uniform",
}
