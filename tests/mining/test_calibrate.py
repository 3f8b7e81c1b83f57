"""Platt's calibration: the maximum of its likelihood, blind to imbalance and to affine changes."""

import numpy as np
import pytest
from scipy.special import expit

from rocketjax.mining.calibrate import Calibration, platt
from rocketjax.runtime.errors import InputError


def drawn(scale, shift, count=40_000, seed=0):
    """Scores of a balanced population that a calibration describes exactly."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-shift / scale, 2.0, count)
    is_positive = rng.random(count) < expit(scale * scores + shift)
    return scores[is_positive], scores[~is_positive]


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 2.0), (3.0, -4.0)])
def test_finds_the_calibration_its_scores_were_drawn_by(scale, shift):
    found = platt(*drawn(scale, shift))
    assert found.scale == pytest.approx(scale, rel=0.05)
    assert found.shift / found.scale == pytest.approx(shift / scale, abs=0.05)


def test_the_fit_is_the_maximum_of_the_balanced_likelihood():
    positive, candidate = drawn(1.5, 0.5, count=500)
    found = platt(positive, candidate)
    n, m = len(positive), len(candidate)
    targets = ((positive, (n + 1) / (n + 2), n), (candidate, 1 / (m + 2), m))
    slope = np.zeros(2)
    for scores, target, count in targets:
        residual = (found.probability(scores) - target) / count
        slope += [residual @ scores, residual.sum()]
    np.testing.assert_allclose(slope, 0, atol=1e-8)


def test_how_many_candidates_there_are_does_not_move_it():
    positive, candidate = drawn(1.0, 0.0)
    few = platt(positive, candidate[:4_000])
    many = platt(positive, np.tile(candidate[:4_000], 10))
    assert many.scale == pytest.approx(few.scale, rel=1e-3)
    assert many.shift == pytest.approx(few.shift, abs=1e-3)


def test_an_affine_change_of_scores_changes_no_probability():
    positive, candidate = drawn(1.0, 0.0, count=1_000)
    found = platt(positive, candidate)
    other = platt(700 * positive - 3e4, 700 * candidate - 3e4)
    np.testing.assert_allclose(
        other.probability(700 * candidate - 3e4), found.probability(candidate), atol=1e-6
    )


def test_separable_scores_give_finite_numbers():
    found = platt([5.0, 6.0, 7.0], [-5.0, -6.0, -7.0, -8.0])
    assert np.isfinite([found.scale, found.shift]).all() and found.scale > 0
    assert found.probability([6.0])[0] > 0.7 > 0.3 > found.probability([-6.0])[0]


def test_a_probability_is_the_sigmoid():
    np.testing.assert_allclose(Calibration(2.0, 1.0).probability([0.0, -0.5]), [expit(1), 0.5])


@pytest.mark.parametrize(
    ("positive", "candidate"), [([0.0, 1.0], [1.0, 2.0]), ([1.0, 1.0], [1.0, 1.0])]
)
def test_a_re_ranker_that_cannot_tell_is_refused(positive, candidate):
    with pytest.raises(InputError, match=r"warm it up longer .*--lists.denoised 0"):
        platt(positive, candidate)


@pytest.mark.parametrize(("positive", "candidate"), [([], [1.0]), ([1.0], [])])
def test_nothing_to_fit_is_refused(positive, candidate):
    with pytest.raises(InputError, match="judge some training queries"):
        platt(positive, candidate)


def test_equal_scores_tell_nothing():
    with pytest.raises(InputError, match="cannot denoise lists"):
        platt([0.5] * 3, [0.5] * 7)
