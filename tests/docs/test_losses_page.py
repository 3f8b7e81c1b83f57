"""docs/losses.md: its presets are those of the code, and every measure it names is logged."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest

from rocketjax.config.loss import PRESETS, LossConfig, resolve_loss
from rocketjax.training.diagnostics import diagnostics

PAGE = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_presets_are_those_of_the_code(preset):
    row = re.search(rf"^\| `{preset}` \|(.*)\|$", PAGE, re.M)[1]
    loss = resolve_loss(LossConfig(preset=preset))
    assert [cell.strip() for cell in row.split("|")] == [
        f"{loss.retriever_weight:g}",
        f"{loss.reranker_weight:g}",
        f"{loss.distill_weight:g}",
        loss.direction,
        f"{loss.teacher_temperature or loss.distill_temperature:g}",
        loss.stop_gradient,
        loss.reduction,
    ]
    assert (loss.distill_loss, loss.reranker_loss) == ("kl", "listwise")


def test_every_measure_of_a_list_is_explained():
    scores, all_valid = jnp.zeros((1, 2)), jnp.ones((1, 2), bool)
    counts = {"retriever": jnp.ones(()), "distill": jnp.ones(())}
    logged = diagnostics(scores, scores, all_valid, LossConfig(), counts, jnp.ones(1, bool))
    assert all(f"`{name}`" in PAGE for name in logged)
