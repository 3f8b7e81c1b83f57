"""The arms of an ablation: a config each, trained from the stage where it departs from the base.

configs/ablation.yaml, or another file, is the base; configs/ablation_NAME.yaml holds what differs
in arm NAME. An arm takes over the base's run up to the first stage that its options change, so that
arms differ in what they are about and in nothing else, and nothing is computed twice. Arms about
lists take over the warmed re-ranker, too, though its warm-up read lists of the base's: they ask
what the joint stage's lists are worth.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rocketjax.config.changes import ORDER, changes, differences
from rocketjax.config.fields import Stage
from rocketjax.config.options import load, load_own, read_values
from rocketjax.config.schema import Config, EvaluateConfig
from rocketjax.pipeline import run as pipeline
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, remove
from rocketjax.runtime.lock import held
from rocketjax.runtime.progress import Say, Watch

BASE = "dynamic"  # the base's name among its arms
# sentence-transformers' recipes, and which losses each takes for its retriever and its re-ranker.
RECIPES = {
    "recipe": ("negatives", "pairs"),
    "recipe_kl": ("kl", "lambda"),
    "recipe_margin": ("margin", "listnet"),
}


@dataclass(frozen=True)
class Trial:
    """The arms of one seed: trained on the same collection, in folders side by side."""

    arms: Mapping[str, Config]
    collection: Path  # to train and evaluate on, in place of the configs' own
    seed: int
    folder: Path  # holds a run folder for every arm

    def config(self, arm: str, run_folder: str = "") -> Config:
        """An arm's config for this trial, evaluated on all held-out queries.

        Args:
            run_folder: its name in the trial's folder; empty: the arm's.
        """
        config = self.arms[arm]
        data = dataclasses.replace(config.data, collection=str(self.collection), max_eval_queries=0)
        run_dir = str(self.folder / (run_folder or arm))
        return dataclasses.replace(config, data=data, seed=self.seed, run_dir=run_dir)


def arm_files(folders: Sequence[Path], base: str) -> dict[str, Path]:
    """The files of the base and of every arm, by name, the base first.

    Args:
        folders: of two files of one name, the later folder's is taken.
        base: the base's file; empty: ablation.yaml.
    """
    defaults = [folder / "ablation.yaml" for folder in folders] or [Path("ablation.yaml")]
    existing = [path for path in defaults if path.is_file()]
    arms = {path.name: path for folder in folders for path in folder.glob("ablation_*.yaml")}
    return {BASE: Path(base) if base else (existing or defaults)[-1]} | {
        Path(name).stem.partition("_")[2]: arms[name] for name in sorted(arms)
    }


def read_arms(files: Mapping[str, Path]) -> dict[str, Config]:
    """The configs of `arm_files`, or of some of them, the base included.

    Raises:
        InputError: no such file, or one that is no config, or does not fit the base, or that judges
            otherwise than the ablation does.
    """
    base = load(files[BASE])
    arms = {name: base if name == BASE else load(path, base) for name, path in files.items()}
    for name, arm in arms.items():
        _check_judged(files[name], arm)
    return arms


def _check_judged(path: Path, arm: Config) -> None:
    """Refuses options of the evaluation that ranks and BM25 here do not heed."""
    for option in ("relevant", "copies", "skip_own"):
        default = getattr(EvaluateConfig(), option)
        if (value := getattr(arm.evaluate, option)) != default:
            raise InputError(
                f"{path}: evaluate.{option}: an ablation judges by {default}, got {value}; leave "
                "it out"
            )


def fingerprint(path: Path) -> str:
    """Identifies what a config sets: results of different bases must not be mixed.

    It does not depend on comments, order, or options added later.

    Raises:
        InputError: as `read_values` does.
    """
    values = json.dumps(read_values(path)[0], sort_keys=True, default=str)
    return hashlib.blake2b(values.encode(), digest_size=4).hexdigest()


def first_change(base: Config, arm: Config) -> Stage | None:
    """The first stage in which an arm departs from the base; None where it does not.

    Arms about lists depart when the joint stage's lists are mined, not before (see above).
    """
    stages: list[Stage] = [
        "mine" if name.startswith("lists.") else stage for name, stage in changes(base, arm).items()
    ]
    return min(stages, key=ORDER.index, default=None)


def taken_over(name: str, arms: Mapping[str, Config]) -> Stage | None:
    """The last stage that an arm, or a rival, takes over from the base's run; None: it takes none.

    Args:
        name: an arm; `start`, which the base evaluates; or a recipe, for which the undenoised arm's
            lists are mined.
    """
    if name == BASE:
        return None
    if name == "start":
        return "start"
    if name in RECIPES and RECIPES[name][0] != "negatives":
        return "joint"  # its teacher is the base's re-ranker as it ended
    change = first_change(arms[BASE], arms["undenoised" if name in RECIPES else name])
    first = ORDER.index(change or "joint")  # no change: the base's lists are the recipe's
    return ORDER[first - 1] if first else None


def run_arm(
    trial: Trial, arm: str, say: Say, watch: Watch, last: Stage = "evaluate", run_folder: str = ""
) -> None:
    """Runs an arm, or what is left of it.

    The base must have run before, up to the stages that the arm takes over.

    Args:
        last: the stage to end with.
        run_folder: see `Trial.config`; what it holds of another config is replaced.
    """
    config = trial.config(arm, run_folder)
    target = Path(config.run_dir)
    change = first_change(trial.arms[BASE], trial.arms[arm])
    there = (target / "config.yaml").is_file()
    if not there or differences(load_own(target / "config.yaml"), config):
        if change not in (None, "start"):
            with held(target, say), new_folder(target) as aside:
                shutil.copytree(trial.folder / BASE, aside, dirs_exist_ok=True)
        if (target / "config.yaml").is_file():
            config = dataclasses.replace(config, from_stage=change)
    stages = ORDER[: ORDER.index(last) + 1]
    pipeline.run(dataclasses.replace(config, stages=stages), say, watch)


def tidy(folder: Path) -> None:
    """Removes the large files of an arm that has been evaluated; lists, runs and reports stay."""
    for name in ("checkpoints", "rounds", "index", "retriever", "reranker", "warmup", "start"):
        remove(folder / name)
