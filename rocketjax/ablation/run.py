"""One arm or rival of an ablation with one seed: trained, or compared, and evaluated."""

from rocketjax.ablation import rivals
from rocketjax.ablation.arms import BASE, RECIPES, Trial, first_change, run_arm, taken_over, tidy
from rocketjax.ablation.ranks import Ranks
from rocketjax.data.collection import Collection
from rocketjax.data.lists import read_lists
from rocketjax.runtime.progress import Say, Watch


def run_one(name: str, trial: Trial, collection: Collection, say: Say, watch: Watch) -> Ranks:
    """Runs an arm or a rival, and what of the base it needs; returns its ranks.

    Args:
        collection: what is at `trial.collection`.
    """
    split, seed, base = collection.split("dev"), trial.seed, trial.folder / BASE
    if name == "bm25":
        return rivals.run_bm25(seed, collection, split)
    # The base may have ranks and no run: --results may have been copied from elsewhere.
    if not (base / "report.json").is_file() and (last := taken_over(name, trial.arms)):
        run_arm(trial, BASE, say, watch, last)
    if name == "start":
        return rivals.ranks_of_runs(name, seed, base / "start", split)
    if name in RECIPES:
        return _run_recipe(name, trial, collection, say, watch)
    run_arm(trial, name, say, watch)
    ranks = rivals.ranks_of_runs(name, seed, trial.folder / name / "runs", split)
    if name != BASE:
        tidy(trial.folder / name)
    return ranks


def _run_recipe(name: str, trial: Trial, collection: Collection, say: Say, watch: Watch) -> Ranks:
    """Trains and evaluates a rival recipe on undenoised lists, mined by the base's models."""
    base = mined = trial.folder / BASE
    warm_up = base / "warmup" / "lists" / "lists.jsonl"
    if first_change(trial.arms[BASE], trial.arms["undenoised"]):  # the base's lists are others
        # In a folder of its own: the undenoised arm itself may be at work beside this.
        mined = trial.folder / "recipe_lists"
        run_arm(trial, "undenoised", say, watch, last="mine", run_folder=mined.name)
    given = rivals.Given(
        collection,
        read_lists(mined / "lists" / "lists.jsonl"),
        read_lists(warm_up) if warm_up.is_file() else [],
        base / "reranker",
    )
    folder = trial.folder / name
    ranks = rivals.run_recipe(name, trial.config(BASE), given, folder, say, watch)
    if mined != base:
        tidy(mined)
    return ranks
