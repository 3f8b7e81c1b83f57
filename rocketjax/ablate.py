"""python -m rocketjax.ablate: what each part of joint training is worth, on a real collection."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from rocketjax.ablation.run import RIVALS, described, run_one
from rocketjax.cli.command import keep_programs, parse_options, run_command, say
from rocketjax.config.fields import Count
from rocketjax.config.schema import Config
from rocketjax.runtime.errors import InputError

if TYPE_CHECKING:
    from rocketjax.ablation.ranks import Ranks


@dataclass(frozen=True)
class Ablate:
    """Trains every arm of configs/ablation*.yaml on a part of a collection, and draws the page.

    An arm is what configs/ablation.yaml and then configs/ablation_ARM.yaml say; `python -m
    rocketjax.train --config configs/ablation.yaml --config configs/ablation_ARM.yaml` trains it
    alone, on the whole collection. Here it takes over the base's run up to where its options first
    matter; an arm about lists, the base's warmed re-ranker, too. Beside the arms: the starting
    models, BM25, and the standard recipe of sentence-transformers on as many pairs.

    Takes hours on a CPU; the same command goes on where it was stopped, and leaves what --results
    already holds. Needs the extra `ablation`.

    On a GPU, which one arm leaves mostly idle, run several such commands side by side, once the
    base is there: the same but for --arms or --seeds.

    Example: python -m rocketjax.ablate --collection data/squad --seeds 1 2 3
    """

    collection: str
    """Collection with splits train and dev."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """One run of every arm each."""
    arms: tuple[str, ...] = ()
    """Only these (and the base, dynamic); empty: all, and start, bm25, recipe."""
    train: Count = 2_000
    """Training queries; 0: all."""
    held_out: Count = 300
    """Queries of dev to judge on; 0: all."""
    passages: Count = 2_500
    """Passages of the corpus, those that are judged for these queries among them; 0: all."""
    configs: tuple[str, ...] = ("configs",)
    """Folders of ablation.yaml and ablation_*.yaml; of two files of one name the later folder's
    counts: `configs configs/gpu` is the larger ablation for a GPU."""
    base: str = ""
    """Another config as the base; empty: ablation.yaml of the last folder that has one."""
    folder: str = "runs/ablation"
    """Where runs are kept."""
    results: str = "runs/ablation_results"
    """Folder of the results: NAME.tsv, NAME.md and NAME.svg, by the collection's name. What is in
    NAME.tsv is not judged again."""
    draw: bool = False
    """Only draw the page anew from the results that are there."""
    sample_seed: Count = 1
    """Of the drawn queries and passages, the same for all arms and seeds."""


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command(lambda: _ablate(parse_options(Ablate, args, "rocketjax.ablate")))


def _ablate(options: Ablate) -> None:
    from rocketjax.ablation.arms import BASE, arm_files, fingerprint
    from rocketjax.ablation.ranks import read_ranks, write_ranks
    from rocketjax.runtime.files import make_home
    from rocketjax.runtime.lock import held

    files = arm_files(tuple(map(Path, options.configs)), options.base)
    name = Path(options.collection).name
    path = Path(options.results) / f"{name}.tsv"
    title = (
        f"{name}: {options.train or 'all'} training queries, {options.held_out or 'all'} held-out "
        f"queries, {options.passages or 'all'} passages, sample {options.sample_seed}, "
        f"base {files[BASE].name} ({fingerprint(files[BASE])})"
    )
    arms = {arm: fingerprint(file) for arm, file in files.items() if file.is_file()}
    ranks, _ = read_ranks(path, title, arms)
    if not options.draw:
        wanted, configs = _wanted(options, files)
        make_home(path)  # refused now, and not after hours of training
        for found in _judged(options, name, wanted, configs, ranks):
            # Others of the same title may have written since: commands run side by side on a GPU.
            with held(path.parent, say, wait=True):
                there, known = read_ranks(path, title, arms)
                known |= {arm: arms[arm] for arm, _, _ in found if arm in arms}
                ranks = there | ranks | found
                write_ranks(path, title, known, ranks)
    if not ranks:
        raise InputError(f"{path}: holds no results yet; leave --draw out")
    _draw(options, name, title, ranks, described(files))


def _judged(
    options: Ablate,
    name: str,
    wanted: Sequence[str],
    arms: Mapping[str, Config],
    done: "Ranks",
) -> "Iterator[Ranks]":
    """The ranks of every run that is wanted and not there yet, run after run."""
    from rocketjax.ablation.sample import write_sample
    from rocketjax.data.load import load_collection
    from rocketjax.runtime.lock import held

    keep_programs()
    home = Path(options.folder) / name
    sizes = (options.train, options.held_out, options.passages)
    sample = home / "collection"
    with held(home, say, wait=True):  # another command may be at it
        write_sample(load_collection(options.collection), sample, *sizes, options.sample_seed)
    collection = load_collection(str(sample))
    for seed in options.seeds:
        for arm in wanted:
            if not any((a, s) == (arm, seed) for a, s, _ in done):
                say(f"{name}, seed {seed}: {arm}")
                yield run_one(arm, arms, sample, collection, seed, home / str(seed))


def _wanted(
    options: Ablate, files: Mapping[str, Path]
) -> tuple[Sequence[str], Mapping[str, Config]]:
    """What is to be judged, and the configs that this takes; refuses what would fail later."""
    from rocketjax.ablation.arms import BASE, first_change, read_arms
    from rocketjax.config.changes import changes

    known = [*files, *RIVALS]
    if unknown := sorted({*options.arms} - {*known}):
        raise InputError(f"--arms: no {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = dict.fromkeys([BASE, *(options.arms or known)])
    # Not every arm goes with every base. The recipe takes the undenoised arm's lists.
    needed = {*wanted, "undenoised"} if "recipe" in wanted else {*wanted}
    if absent := needed - {*known}:
        raise InputError(
            f"{', '.join(options.configs)}: no ablation_{absent.pop()}.yaml, which recipe needs"
        )
    arms = read_arms({arm: path for arm, path in files.items() if arm in needed})
    if "start" in wanted and not arms[BASE].evaluate.start:
        raise InputError(
            f"{files[BASE]}: evaluate.start is false, so that there is no start to judge; "
            "set it to true, or name --arms without start"
        )
    for arm, config in arms.items():
        for name in changes(arms[BASE], config):
            if name.startswith("evaluate."):
                raise InputError(
                    f"{files[arm]}: {name} differs from the base's; all are judged alike, so set "
                    f"it in {files[BASE]}"
                )
    same = [
        arm
        for arm in wanted
        if arm in arms and arm != BASE and not first_change(arms[BASE], arms[arm])
    ]
    for arm in same:
        say(f"{arm}: passed over, as {files[BASE]} says all that {files[arm]} does")
    return [arm for arm in wanted if arm not in same], arms


def _draw(options: Ablate, name: str, title: str, ranks: "Ranks", arms: Mapping[str, str]) -> None:
    from rocketjax.ablation import page
    from rocketjax.runtime.files import write_text

    folder = Path(options.results)
    lines = page.table(ranks, arms)
    drawn = f"![gains over the base]({quote(name)}.svg)"
    write_text(folder / f"{name}.md", f"# {title}\n\n{lines}\n\n{drawn}\n")
    write_text(folder / f"{name}.svg", page.picture(ranks, list(arms), title))
    say(lines)
    say(f"{folder / name}.md, .svg and .tsv")


if __name__ == "__main__":
    sys.exit(main())
