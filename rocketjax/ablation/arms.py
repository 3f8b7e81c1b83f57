"""The arms of an ablation: one config each, run from where it parts from the base.

configs/ablation.yaml, or another file, is the base; configs/ablation_NAME.yaml holds what differs
in arm NAME. An arm takes over what the base's run left behind up to the first stage that its
options change, so that arms differ in what they are about and in nothing else, and nothing is
computed twice. Arms about lists take over the warmed re-ranker, too, though its warm-up read lists
of the base's: they ask what the joint stage's lists are worth.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from rocketjax.config.changes import ORDER, changes, differences
from rocketjax.config.fields import Stage
from rocketjax.config.options import load, read_values
from rocketjax.config.schema import Config
from rocketjax.pipeline import run
from rocketjax.runtime.files import new_folder, remove
from rocketjax.runtime.lock import held
from rocketjax.runtime.progress import Say, Watch

BASE = "dynamic"  # how the base is called among its arms


def arm_files(folders: Sequence[Path], base: str) -> dict[str, Path]:
    """The files of the base and of every arm, by name, the base first.

    Args:
        folders: of two files of one name, the later folder's counts.
        base: the base's file; empty: ablation.yaml.
    """
    usual = [folder / "ablation.yaml" for folder in folders] or [Path("ablation.yaml")]
    start = Path(base) if base else ([path for path in usual if path.is_file()] or usual)[-1]
    found = {path.name: path for folder in folders for path in folder.glob("ablation_*.yaml")}
    return {BASE: start} | {
        Path(name).stem.partition("_")[2]: found[name] for name in sorted(found)
    }


def read_arms(files: Mapping[str, Path]) -> dict[str, Config]:
    """The configs of `arm_files`, or of some, the base among them.

    Raises:
        InputError: no such file, or one that is no config, or does not go with the base.
    """
    base = load(files[BASE])
    return {name: base if name == BASE else load(path, base) for name, path in files.items()}


def fingerprint(path: Path) -> str:
    """Of what a config sets: results of another base are not to be put beside.

    Comments, order and options that come to exist later leave it as it is.

    Raises:
        InputError: what `read_values` raises.
    """
    said = json.dumps(read_values(path)[0], sort_keys=True, default=str)
    return hashlib.blake2b(said.encode(), digest_size=4).hexdigest()


def first_change(base: Config, arm: Config) -> Stage | None:
    """The first stage in which an arm parts from the base; None where it does not.

    Arms about lists part when the joint stage's lists are mined, not before (see above).
    """
    stages: list[Stage] = [
        "mine" if name.startswith("lists.") else stage for name, stage in changes(base, arm).items()
    ]
    return min(stages, key=ORDER.index, default=None)


def taken_over(name: str, arms: Mapping[str, Config]) -> Stage | None:
    """The last stage that an arm, or a rival, takes over from the base's run; None: it takes none.

    Args:
        name: an arm; `start`, which the base judges; or `recipe`, for which the undenoised arm's
            lists are mined.
    """
    if name == BASE:
        return None
    if name == "start":
        return "start"
    parts = first_change(arms[BASE], arms["undenoised" if name == "recipe" else name])
    first = ORDER.index(parts or "joint")  # where the base's lists are the recipe's, all of them
    return ORDER[first - 1] if first else None


def run_arm(
    name: str,
    arms: Mapping[str, Config],
    collection: Path,
    seed: int,
    target: Path,
    say: Say,
    watch: Watch,
    last: Stage = "evaluate",
) -> None:
    """Runs one arm with one seed, or what is left of it; the base must have run before, as far as
    the arm takes it over.

    Args:
        collection: what to train and judge on; of the configs' own data options, the rest counts.
        target: the arm's run folder, beside the base's; one of another config is replaced.
        last: the stage that it ends with.
    """
    arm = settled(arms[name], collection, seed, target)
    stage = first_change(arms[BASE], arms[name])
    there = (target / "config.yaml").is_file()
    if not there or differences(load(target / "config.yaml"), arm):
        if stage not in (None, "start"):
            with held(target, say), new_folder(target) as aside:
                shutil.copytree(target.with_name(BASE), aside, dirs_exist_ok=True)
        if (target / "config.yaml").is_file():
            arm = dataclasses.replace(arm, from_stage=stage)
    wanted = ORDER[: ORDER.index(last) + 1]
    run.run(dataclasses.replace(arm, stages=wanted), say, watch)


def tidy(folder: Path) -> None:
    """Removes what is large of an arm that has been judged; lists, runs and reports stay."""
    for name in ("checkpoints", "rounds", "index", "retriever", "reranker", "warmup", "start"):
        remove(folder / name)


def settled(config: Config, collection: Path, seed: int, folder: Path) -> Config:
    """A config with the collection, all of its held-out queries, the seed and the folder."""
    data = dataclasses.replace(config.data, collection=str(collection), max_eval_queries=0)
    return dataclasses.replace(config, data=data, seed=seed, run_dir=str(folder))
