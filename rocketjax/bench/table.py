"""Figures as tables for people."""

import os
import platform
from collections.abc import Sequence

import jax
from rich.table import Table

from rocketjax.bench.fact import Fact
from rocketjax.bench.pair import Result


def results_table(results: Sequence[Result]) -> Table:
    """Both sides' speeds and their ratio."""
    table = Table(title=machine())
    for name in ("task", "a second", "rocketjax", "rival", "ratio", ""):
        table.add_column(name, justify="left" if name in ("task", "a second", "") else "right")
    for result in results:
        speeds = (f"{result.ours:,.1f}", f"{result.theirs:,.1f}", f"{result.ratio:.2f}")
        table.add_row(result.task, result.unit, *speeds, result.setting)
    return table


def facts_table(facts: Sequence[Fact]) -> Table:
    """What was measured, and what it should be."""
    table = Table(title=machine())
    table.add_column("fact")
    table.add_column("", justify="right")
    for name in ("unit", "should be"):
        table.add_column(name)
    for fact in facts:
        table.add_row(fact.name, f"{fact.value:,.3f}", fact.unit, fact.target)
    return table


def machine() -> str:
    """Devices and versions, as a title."""
    device = jax.devices()[0]
    where = f"{os.cpu_count()} cores" if device.platform == "cpu" else device.device_kind
    return f"{where}, jax {jax.__version__}, Python {platform.python_version()}"
