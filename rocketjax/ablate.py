"""python -m rocketjax.ablate: what each part of joint training is worth, on a real collection."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from rocketjax.cli.command import command, keep_programs, say, watch
from rocketjax.config.fields import Count
from rocketjax.config.schema import Config
from rocketjax.runtime.errors import InputError

if TYPE_CHECKING:
    from rocketjax.ablation.ranks import Ranks


@dataclass(frozen=True)
class Ablate:
    """Trains every arm of configs/ablation*.yaml on a part of a collection, and draws the page.

    An arm is configs/ablation.yaml with the changes of configs/ablation_ARM.yaml; `python -m
    rocketjax.train --config configs/ablation.yaml --config configs/ablation_ARM.yaml` trains it
    alone, on the whole collection. Here it takes over the base's run up to where its options first
    matter; an arm about lists also takes over the base's warmed re-ranker. The arms are compared
    with the starting models, BM25, and sentence-transformers' standard recipe on as many pairs.

    Takes hours on a CPU; the same command resumes where it was stopped, and skips what --results
    already holds. Needs the extra `ablation`.

    On a GPU, which one arm leaves mostly idle, run several such commands side by side once the base
    has been trained, each with other --arms or --seeds.

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
    """Queries of dev to evaluate on; 0: all."""
    passages: Count = 2_500
    """Passages of the corpus, including those that are judged for these queries; 0: all."""
    configs: tuple[str, ...] = ("configs",)
    """Folders of ablation.yaml and ablation_*.yaml; of two files of one name, the later folder's is
    taken: `configs configs/gpu` is the larger ablation for a GPU."""
    base: str = ""
    """Another config as the base; empty: ablation.yaml of the last folder that has one."""
    folder: str = "runs/ablation"
    """Where runs are kept."""
    results: str = "runs/ablation_results"
    """Folder of the results: NAME.tsv, NAME.md and NAME.svg, by the collection's name. What is in
    NAME.tsv is not run again."""
    draw: bool = False
    """Only draw the page, from the results so far."""
    sample_seed: Count = 1
    """Of the drawn queries and passages, the same for all arms and seeds."""


def _ablate(options: Ablate) -> None:
    from rocketjax.ablation.arms import BASE, arm_files, fingerprint
    from rocketjax.ablation.choice import choose, describe
    from rocketjax.ablation.ranks import add_ranks, read_ranks
    from rocketjax.runtime.files import ensure_parent

    files = arm_files(tuple(map(Path, options.configs)), options.base)
    name = Path(options.collection).name
    path = Path(options.results) / f"{name}.tsv"
    title = (
        f"{name}: {options.train or 'all'} training queries, {options.held_out or 'all'} held-out "
        f"queries, {options.passages or 'all'} passages, sample {options.sample_seed}, "
        f"base {files[BASE].name} ({fingerprint(files[BASE])})"
    )
    fingerprints = {arm: fingerprint(file) for arm, file in files.items() if file.is_file()}
    ranks, _ = read_ranks(path, title, fingerprints)
    if not options.draw:
        wanted, configs = choose(options.arms, files, options.configs, say)
        ensure_parent(path)  # refused now, and not after hours of training
        for new in _run(options, wanted, configs, ranks):
            ranks = add_ranks(path, title, fingerprints, ranks, new, say)
    if not ranks:
        raise InputError(f"{path}: holds no results yet; run without --draw")
    _draw(options, title, ranks, describe(files))


def _run(
    options: Ablate, wanted: Sequence[str], configs: Mapping[str, Config], known: "Ranks"
) -> "Iterator[Ranks]":
    """The ranks of everything that is wanted and not known yet, run after run."""
    from rocketjax.ablation.arms import Trial
    from rocketjax.ablation.run import run_one
    from rocketjax.ablation.sample import write_sample
    from rocketjax.data.load import load_collection
    from rocketjax.runtime.lock import held

    keep_programs()
    name = Path(options.collection).name
    home = Path(options.folder) / name
    sample = home / "collection"
    with held(home, say, wait=True):  # another command may be writing it
        sizes = (options.train, options.held_out, options.passages)
        write_sample(load_collection(options.collection), sample, *sizes, options.sample_seed)
    collection = load_collection(str(sample))
    done = {(arm, seed) for arm, seed, _ in known}
    for seed in options.seeds:
        trial = Trial(configs, sample, seed, home / str(seed))
        for arm in wanted:
            if (arm, seed) not in done:
                say(f"{name}, seed {seed}: {arm}")
                yield run_one(arm, trial, collection, say, watch)


def _draw(options: Ablate, title: str, ranks: "Ranks", arms: Mapping[str, str]) -> None:
    from rocketjax.ablation import page
    from rocketjax.runtime.files import write_text

    name, folder = Path(options.collection).name, Path(options.results)
    table = page.table(ranks, arms)
    picture = f"![gains over the base]({quote(name)}.svg)"
    write_text(folder / f"{name}.md", f"# {title}\n\n{table}\n\n{picture}\n")
    write_text(folder / f"{name}.svg", page.picture(ranks, list(arms), title))
    say(table)
    say(f"{folder / name}.md, .svg and .tsv")


main = command(Ablate, _ablate)

if __name__ == "__main__":
    sys.exit(main())
