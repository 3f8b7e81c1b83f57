"""Lists composed by a teacher's scores: what each rule leaves out, how negatives are drawn."""

import dataclasses

import numpy as np
import pytest
from mined import hybrid_lists
from scipy.special import logit

from rocketjax.config.checks import check_lists
from rocketjax.config.schema import ListConfig
from rocketjax.data.lists import Candidates
from rocketjax.mining.calibrate import Calibration
from rocketjax.mining.report import describe, read_report, write_report
from rocketjax.mining.rules import unread_line
from rocketjax.runtime.errors import InputError

PLAIN = Calibration(1.0, 0.0)
RANKED = tuple(f"p{i}" for i in range(12))
# By rank; of the positive: 0.8.
P = (0.95, 0.79, 0.77, 0.75, 0.7, 0.61, 0.5, 0.4, 0.3, 0.2, 0.05, 0.01)
ROW = Candidates("q", ("pos",), RANKED, tuple(logit(P).tolist()), (float(logit(0.8)),))
# As many negatives as there are candidates: all that the rules leave is drawn.
WHOLE = ListConfig(length=13, top_n=12, denoised=0.0)


def composed(row=ROW, base=WHOLE, seed=1, **options):
    config = dataclasses.replace(base, **options)
    return hybrid_lists([row], PLAIN, config, seed)


def left(**options):
    (item,), _ = composed(**options)
    return sorted(item.negatives, key=lambda pid: int(pid[1:]))


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"range_min": 3}, [i for i in range(12) if i >= 3]),
        ({"max_score": 0.7}, [i for i in range(12) if P[i] <= 0.7 + 1e-9]),
        ({"min_score": 0.2}, [i for i in range(12) if P[i] >= 0.2 - 1e-9]),
        ({"absolute_margin": 0.1}, [i for i in range(12) if P[i] + 0.1 <= 0.8 + 1e-9]),
        ({"relative_margin": 0.05}, [i for i in range(12) if P[i] <= 0.95 * 0.8]),
        ({"relative_margin": 0.0}, list(range(1, 12))),  # no negative above the positive
    ],
)
def test_a_rule_leaves_out_what_its_equation_says(options, allowed):
    # Just above and below a bound, five digits of a score decide.
    row = dataclasses.replace(ROW, scores=tuple(s - 1e-4 for s in ROW.scores))
    if "min_score" in options:
        row = dataclasses.replace(ROW, scores=tuple(s + 1e-4 for s in ROW.scores))
    assert 0 < len(allowed) < 12
    assert left(row=row, **options) == [f"p{i}" for i in allowed]
    assert left(row=row) == list(RANKED)  # without the rule


def test_what_each_rule_took_is_counted_and_said(tmp_path):
    rows = [dataclasses.replace(ROW, query=f"q{i}") for i in range(3)]
    options = {"range_min": 1, "max_score": 0.76, "relative_margin": 0.25, "min_score": 0.1}
    config = dataclasses.replace(WHOLE, length=8, **options)
    lists, report = hybrid_lists(rows, PLAIN, config, 1)
    assert report.taken == {
        "range_min": 3,
        "max_score": 2 * 3,
        "min_score": 2 * 3,
        "relative_margin": 3 * 3,
    }
    assert {len(item.negatives) for item in lists} == {4} and report.short == 3
    assert (report.ruled, report.pool) == (3, 36)
    said = describe(report, str, str)
    assert "12.0 candidates a positive; range_min took 3 (1.0 a list)" in said
    assert "relative_margin took 9 (3.0 a list)" in said
    assert "from the other 4.0 (uniform)" in said and "3 of them short" in said
    write_report(tmp_path / "report.json", report, [])
    assert read_report(tmp_path / "report.json")[0] == report
    _, plain = hybrid_lists(rows, PLAIN, WHOLE, 1)
    assert plain.taken == {} and "candidates a positive" not in describe(plain, str, str)


def test_each_positive_has_its_own_margin():
    row = dataclasses.replace(
        ROW, positives=("pos", "low"), positive_scores=(float(logit(0.8)), float(logit(0.45)))
    )
    lists, report = composed(row=row, relative_margin=0.05)
    sizes = {item.positive: len(item.negatives) for item in lists}
    assert sizes == {"pos": 9, "low": 5}
    assert report.taken == {"relative_margin": 3 + 7}


def test_denoised_lists_and_pseudo_positives_heed_the_rules_too():
    base = ListConfig(length=5, top_n=12, denoised=1.0, low=0.65, high=0.9, pseudo_positives=1)
    lists, report = composed(base=base)
    assert {item.positive for item in lists} == {"pos", "p0"} and report.topped_up == 0
    some = {
        pid for seed in range(20) for x in composed(base=base, seed=seed)[0] for pid in x.negatives
    }
    assert some == set(RANKED[5:])
    for item in composed(base=base, absolute_margin=0.5, range_min=2)[0]:
        below = {"pos": RANKED[8:], "p0": RANKED[7:]}  # 0.5 below 0.8 and 0.95
        assert {*item.negatives} <= {*below[item.positive]} and len(item.negatives) == 4
    deep = dataclasses.replace(ROW, passages=(*RANKED, "deep"))
    (item,), report = composed(
        row=deep, base=dataclasses.replace(base, pseudo_positives=0), min_score=0.25
    )
    assert {*item.negatives} == {"p5", "p6", "p7", "p8"} and report.topped_up == 0
    (item,), report = composed(
        row=deep, base=dataclasses.replace(base, pseudo_positives=0), min_score=0.35
    )
    assert {*item.negatives} == {"p5", "p6", "p7", "deep"} and report.topped_up == 1


def test_without_denoised_lists_nothing_is_said_to_be_dropped():
    """Mining counts no improbable candidates then: a rule by score alone had them scored."""
    _, report = composed(relative_margin=0.05)
    said = describe(report, str, str)
    assert "12 candidates scored\n" in said + "\n" and "too likely" not in said
    _, report = composed(relative_margin=0.05, denoised=1.0, length=4, low=0.1)
    assert "12 candidates scored: 10 too likely" in describe(report, str, str)


# ---- sampling


def drawn(seeds=400, **options):
    """The ranks drawn, by seed."""
    return [
        [int(pid[1:]) for pid in composed(seed=seed, length=4, **options)[0][0].negatives]
        for seed in range(seeds)
    ]


def test_the_best_ranked_are_taken():
    assert drawn(3, sampling="top") == [[0, 1, 2]] * 3
    assert drawn(3, sampling="top", relative_margin=0.05) == [[3, 4, 5]] * 3


def test_one_negative_is_drawn_from_each_stratum_of_the_scores():
    rng = np.random.default_rng(0)
    order = rng.permutation(12)  # ranked otherwise than scored
    row = dataclasses.replace(ROW, scores=tuple(np.array(ROW.scores)[order].tolist()))
    strata = [{r for r in range(12) if order[r] // 4 == part} for part in range(3)]
    found = drawn(row=row, sampling="stratified")
    for ranks in found:
        assert all(rank in stratum for rank, stratum in zip(ranks, strata, strict=True))
    for part, stratum in enumerate(strata):
        counts = [sum(ranks[part] == rank for ranks in found) for rank in stratum]
        assert min(counts) > 60  # of 100: uniformly
    uniform = drawn(row=row)
    assert any(len({order[r] // 4 for r in ranks}) < 3 for ranks in uniform)


def test_simans_draws_by_its_equation():
    """One negative: in proportion to exp(-a (s - s_pos - b)^2)."""
    a, b = 0.7, -1.0
    s = np.array(ROW.scores)
    weights = np.exp(-a * (s - logit(0.8) - b) ** 2)
    options = {"sampling": "simans", "simans_a": a, "simans_b": b, "length": 2}
    counts = np.zeros(12)
    for seed in range(3000):
        (item,), _ = composed(seed=seed, **options)
        counts[int(item.negatives[0][1:])] += 1
    expected = 3000 * weights / weights.sum()
    some = expected > 5
    assert some.sum() >= 6
    # Chi-square of at most 11 degrees, whose mean is 11; of uniform draws it is in the thousands.
    assert np.sum((counts[some] - expected[some]) ** 2 / expected[some]) < 35
    assert counts[~some].sum() < 40
    assert np.sum((250 - expected[some]) ** 2 / expected[some]) > 1000


def test_simans_is_no_victim_of_underflow():
    far = dataclasses.replace(ROW, positive_scores=(1e4,))
    assert drawn(3, row=far, sampling="simans") == [[0, 1, 2]] * 3  # the nearest, in its order


@pytest.mark.parametrize("sampling", ["uniform", "top", "stratified", "simans"])
def test_draws_hang_on_seed_query_and_positive_alone(sampling):
    rows = [dataclasses.replace(ROW, query=f"q{i}") for i in range(20)]
    config = ListConfig(
        length=4, top_n=12, denoised=0.5, low=0.9, sampling=sampling, relative_margin=0.02
    )
    lists, _ = hybrid_lists(rows, PLAIN, config, 1)
    assert hybrid_lists(rows[::-1], PLAIN, config, 1)[0][-2:] == lists[:2]
    assert hybrid_lists(rows[7:8], PLAIN, config, 1)[0] == [x for x in lists if x.query == "q7"]
    noisy = [
        dataclasses.replace(row, scores=tuple(s * (1 + 1e-7) for s in row.scores)) for row in rows
    ]
    assert hybrid_lists(noisy, PLAIN, config, 1)[0] == lists  # as other devices compute them
    if sampling != "top":
        assert hybrid_lists(rows, PLAIN, config, 2)[0] != lists
        assert len({item.negatives for item in lists}) > 15


# ---- options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"range_min": 44}, "lists.range_min: at most 43"),
        ({"min_score": 0.5, "max_score": 0.4}, "lists.min_score: at most 0.4"),
        ({"source": "given", "sampling": "top"}, "lists.sampling: given lists are not mined"),
        ({"source": "given", "range_min": 1}, "lists.range_min: given lists are not mined"),
        ({"source": "given", "denoised": 0.0}, r"lists.denoised: .* sets it: 0\.5"),
        ({"source": "given", "scored": 7, "top_n": 30}, r"lists.top_n: .* sets it: 50"),
        ({"source": "given", "refresh": 5}, "lists.refresh: given lists are not mined"),
    ],
)
def test_rules_that_contradict_other_options_are_refused(options, said):
    with pytest.raises(InputError, match=f"^{said}"):
        check_lists(ListConfig(**options), str)


def test_what_only_denoised_lists_read_is_named_where_there_are_none():
    said = unread_line(ListConfig(denoised=0.0, low=0.1, scored=7, calibration="sigmoid"))
    assert said == "lists.denoised 0: no list reads lists.low, lists.scored, lists.calibration"
    ruled = ListConfig(denoised=0.0, max_score=0.9, calibration="sigmoid")  # a rule reads it
    assert not unread_line(ruled) and not unread_line(ListConfig(low=0.1))


def test_given_lists_may_be_longer_than_what_mining_retrieves():
    check_lists(ListConfig(source="given", length=99, positives=2, after=5, teacher="some"), str)
