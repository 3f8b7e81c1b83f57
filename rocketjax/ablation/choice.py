"""Which arms to run: what would fail after hours of training is refused here, before it."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rocketjax.ablation.arms import BASE, RECIPES, first_change, read_arms
from rocketjax.config.changes import changes
from rocketjax.config.schema import Config
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say

# What arms are compared with, beside the base. Arms are described in their configs.
RIVALS = {
    "start": "the starting models, untrained (the re-ranker's head is fresh)",
    "bm25": "BM25 (in the retriever's place)",
    "recipe": "sentence-transformers: in-batch and hard negatives; its cross-encoder trainer",
    "recipe_kl": "sentence-transformers: DistillKLDivLoss from the base's re-ranker; LambdaLoss",
    "recipe_margin": "sentence-transformers: MarginMSELoss from the base's re-ranker; ListNetLoss",
}


def choose(
    names: Sequence[str], files: Mapping[str, Path], say: Say
) -> tuple[list[str], dict[str, Config]]:
    """What to run, the base first, and the configs that this takes.

    Args:
        names: of arms and rivals; none: all.
        files: what `arm_files` found.

    Raises:
        InputError: no such arm, or a config that is missing or cannot be compared with the base.
    """
    known = [*files, *RIVALS]
    if unknown := sorted({*names} - {*known}):
        raise InputError(f"--arms: no arm {', '.join(unknown)}; choose from {', '.join(known)}")
    wanted = list(dict.fromkeys([BASE, *(names or known)]))
    configs = _read(wanted, files)
    if "start" in wanted and not configs[BASE].evaluate.start:
        raise InputError(
            f"{files[BASE]}: evaluate.start is false, so the starting models would not be "
            "evaluated; set it to true, or name --arms without start"
        )
    _check_evaluated_alike(configs, files)
    unchanged = list(_unchanged(wanted, configs))
    for arm in unchanged:
        say(f"{arm}: skipped, as {files[BASE]} already sets all that {files[arm]} does")
    return [arm for arm in wanted if arm not in unchanged], configs


def describe(files: Mapping[str, Path]) -> dict[str, str]:
    """Every arm and rival in a few words; an arm's are the second line of its config."""
    descriptions = {}
    for arm, path in files.items():
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        descriptions[arm] = lines[1].removeprefix("# ") if len(lines) > 1 else ""
    return descriptions | RIVALS


def _read(wanted: Sequence[str], files: Mapping[str, Path]) -> dict[str, Config]:
    """Only the configs that are needed: not every arm fits every base."""
    needed = {*wanted} - {*RIVALS}
    configs = read_arms({arm: path for arm, path in files.items() if arm in needed})
    if not RECIPES.keys().isdisjoint(wanted):  # which train on that arm's lists
        base = configs[BASE]
        lists = dataclasses.replace(
            base.lists, denoised=0.0, pseudo_positives=0, unlabelled="pseudo"
        )
        configs.setdefault("undenoised", dataclasses.replace(base, lists=lists))
    return configs


def _check_evaluated_alike(configs: Mapping[str, Config], files: Mapping[str, Path]) -> None:
    for arm, config in configs.items():
        for name in changes(configs[BASE], config):
            if name.startswith("evaluate."):
                raise InputError(
                    f"{files[arm]}: {name} differs from the base's; all arms are evaluated alike, "
                    f"so set it in {files[BASE]}"
                )


def _unchanged(wanted: Sequence[str], configs: Mapping[str, Config]) -> Iterator[str]:
    """The arms that are what the base is."""
    for arm in wanted:
        if arm in configs and arm != BASE and not first_change(configs[BASE], configs[arm]):
            yield arm
