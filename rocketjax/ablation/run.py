"""One arm of the ablation: trained or compared, and judged."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rocketjax.cli.command import say, watch
from rocketjax.config.schema import Config

if TYPE_CHECKING:
    from rocketjax.ablation.ranks import Ranks
    from rocketjax.data.collection import Collection


# Beside the arms, which are named by their configs.
RIVALS = {
    "start": "the starting models, untrained (the re-ranker's head is fresh)",
    "bm25": "BM25 (in the retriever's place)",
    "recipe": "sentence-transformers: in-batch and hard negatives; its cross-encoder trainer",
}


def run_one(
    arm: str,
    arms: Mapping[str, Config],
    sample: Path,
    collection: "Collection",
    seed: int,
    folder: Path,
) -> "Ranks":
    """Trains or compares one arm with one seed; its ranks."""
    from rocketjax.ablation import rivals
    from rocketjax.ablation.arms import BASE, first_change, run_arm, settled, taken_over, tidy
    from rocketjax.data.lists import read_lists

    split, base = collection.split("dev"), folder / BASE
    if arm == "bm25":
        return rivals.judge_bm25(seed, collection, split)
    # Where --results came from elsewhere, the base is judged there and its run is not here.
    if not (base / "report.json").is_file() and (last := taken_over(arm, arms)):
        run_arm(BASE, arms, sample, seed, base, say, watch, last)
    if arm == "start":
        return rivals.read_judged(arm, seed, base / "start", split)
    if arm == "recipe":
        mined, warm = base, base / "warmup" / "lists" / "lists.jsonl"
        if first_change(arms[BASE], arms["undenoised"]):  # the base's lists are not these already
            mined = folder / "recipe_lists"  # the arm itself may be at work beside this
            run_arm("undenoised", arms, sample, seed, mined, say, watch, "mine")
        ranks = rivals.judge_recipe(
            settled(arms[BASE], sample, seed, base),
            read_lists(mined / "lists" / "lists.jsonl"),
            read_lists(warm) if warm.is_file() else [],
            collection,
            folder / arm,
            say,
            watch,
        )
        if mined != base:
            tidy(mined)
        return ranks
    run_arm(arm, arms, sample, seed, folder / arm, say, watch)
    ranks = rivals.read_judged(arm, seed, folder / arm / "runs", split)
    if arm != BASE:
        tidy(folder / arm)
    return ranks


def described(files: Mapping[str, Path]) -> dict[str, str]:
    """Every arm in a few words: the second line of its file."""
    described = {}
    for arm, path in files.items():
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        described[arm] = lines[1].removeprefix("# ") if len(lines) > 1 else ""
    return described | RIVALS
