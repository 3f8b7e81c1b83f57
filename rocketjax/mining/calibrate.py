"""Re-ranker scores to probabilities of relevance.

A listwise loss does not see what is added to all scores of a list, so sigmoid(score) of a model
trained by it says nothing. Platt's method gives scores a meaning: p = sigmoid(scale * score +
shift), fitted so that it separates known positives from mined candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from rocketjax.runtime.errors import InputError


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid(scale * score + shift)."""

    scale: float
    shift: float

    def probability(self, scores: Sequence[float]) -> np.ndarray:
        """Scores [N] -> probabilities [N] float64."""
        return expit(self.scale * np.asarray(scores, np.float64) + self.shift)


def platt(
    positive_scores: Sequence[float] | np.ndarray, candidate_scores: Sequence[float] | np.ndarray
) -> Calibration:
    """Fits scale and shift by maximum likelihood, both classes weighing the same.

    So p is the probability that a passage is a positive rather than a candidate, were both equally
    frequent: how many candidates were mined does not move it. Candidates count as negatives though
    some are positives nobody judged, which makes p of true positives too low rather than too high.
    Targets are Platt's (1999) smoothed ones, so separable scores give finite numbers.

    Raises:
        InputError: no positives or no candidates, or positives do not score above candidates.
    """
    if not len(positive_scores) or not len(candidate_scores):
        raise InputError(
            "denoising fits probabilities on scores of known positives and of candidates, but got "
            f"{len(positive_scores)} and {len(candidate_scores)}; judge some training queries, or "
            "take --lists.calibration sigmoid (for a pointwise-trained re-ranker)"
        )
    positive, candidate = (np.asarray(s, np.float64) for s in (positive_scores, candidate_scores))
    scores = np.concatenate([positive, candidate])
    mean, deviation = scores.mean(), scores.std() or 1.0
    z = (scores - mean) / deviation  # the fit then is well conditioned whatever the scores' scale
    n, m = len(positive), len(candidate)
    target = np.repeat([(n + 1) / (n + 2), 1 / (m + 2)], [n, m])
    weight = np.repeat([0.5 / n, 0.5 / m], [n, m])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logit = parameters[0] * z + parameters[1]
        residual = weight * (expit(logit) - target)
        value = np.sum(weight * (np.logaddexp(0, logit) - target * logit))
        return float(value), np.array([residual @ z, residual.sum()])

    fit = minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-10})
    scale = float(fit.x[0] / deviation)
    if scale <= 0 or scores.min() == scores.max():  # of equal scores, any scale would do
        raise InputError(
            "the re-ranker does not score known positives above other candidates, so it cannot "
            "denoise lists or rule candidates out; warm it up longer (--reranker-warmup.steps), or "
            "leave both out (--lists.denoised 0, no margins and no --lists.max-score or min-score)"
        )
    return Calibration(scale, float(fit.x[1] - scale * mean))
