"""What a change of options changes: which stages of a run stay, and which must run again."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

from rocketjax.config.fields import NEVER, Stage, effects
from rocketjax.config.loss import resolve_loss
from rocketjax.config.schema import Config

ORDER: tuple[Stage, ...] = get_args(Stage)
EFFECTS = effects(Config)


def changes(old: Config, new: Config) -> dict[str, Stage]:
    """The options in which two configs would train differently, and the first stage of each.

    A loss preset counts as the options that it stands for, whatever its name.
    """
    old, new = (
        dataclasses.replace(one, loss=dataclasses.replace(resolve_loss(one.loss), preset="custom"))
        for one in (old, new)
    )
    found: dict[str, Stage] = {}
    for name in changed(old, new):
        if (stage := EFFECTS[name].stage) is not None:
            found[name] = stage
    return found


def differences(
    old: Config, new: Config, wanted: Callable[[str], bool] = lambda _: True
) -> list[str]:
    """The options, as "joint.steps: 24 -> 48", in which two configs would train differently."""
    return [
        f"{name}: {before} -> {after}"
        for name, (before, after) in changed(old, new).items()
        if wanted(name)
    ]


def changed(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs would train differently, with their values in both."""
    before, after = training_fields(old), training_fields(new)
    both = [name for name in after if name in before]
    return {name: (before[name], after[name]) for name in both if before[name] != after[name]}


def training_fields(config: Config) -> dict[str, Any]:
    """All fields by their dotted names, except those that change nothing of what is trained.

    Bad steps do not count: allowing more than were met so far is as if they had been allowed from
    the start.
    """
    free = {name for name, effect in EFFECTS.items() if effect.stage is NEVER}
    if config.checkpoint.take == "last":  # only what was kept can be the best
        free |= {"checkpoint.every"}
    fields = _flat(dataclasses.asdict(config))
    return {name: value for name, value in fields.items() if name not in free}


def matters_by(option: str, stage: str) -> bool:
    """Whether the option matters to a stage of that name or to one before it."""
    first = EFFECTS[option].stage
    return first is not None and stage in ORDER[ORDER.index(first) :]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"joint": {"steps": 1}} -> {"joint.steps": 1}."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        result |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return result
