"""python -m rocketjax.ablate: what each part of joint training is worth, on a real collection."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from rocketjax.cli.command import RESUMES, command, keep_programs, say, watch
from rocketjax.config.fields import Count, PathName, Whole
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
    """Only these (and the base, dynamic); empty: all, and what they are compared with: start, bm25,
    recipe, recipe_kl, recipe_margin."""
    train: Count = 2_000
    """Training queries; 0: all."""
    held_out: Count = 300
    """Queries of dev to evaluate on; 0: all."""
    passages: Count = 2_500
    """Passages of the corpus, including those that are judged for these queries; 0: all."""
    configs: tuple[PathName, ...] = ("configs",)
    """Folders of ablation.yaml and ablation_*.yaml; of two files of one name, the later folder's is
    taken: `configs configs/gpu` is the larger ablation for a GPU."""
    base: PathName = ""
    """Another config as the base; empty: ablation.yaml of the last folder that has one."""
    folder: PathName = "runs/ablation"
    """Where runs are kept."""
    results: PathName = "runs/ablation_results"
    """Folder of the results: NAME.tsv, NAME.md and NAME.svg, by the collection's name, and with
    hidden labels NAME.json. What is in NAME.tsv is not run again."""
    draw: bool = False
    """Only draw the page, from the results so far."""
    against: str = "dynamic"
    """The arm that gains are counted over; another than the base has a page of its own."""
    sample_seed: Count = 1
    """Of the drawn queries and passages, the same for all arms and seeds."""
    hidden: Whole | None = None
    """Make a collection in which the truth is known (docs/evidence.md): cut passages into windows
    of three sentences, label one of those that hold a training query's answer, hide this share of
    the others; all of them count when held-out queries are judged. Needs answers.jsonl; of the demo
    it hides what other libraries call the same."""
    unlabelled: Count = 0
    """Further training queries, without labels: the split "unlabelled"."""
    layers: tuple[Count, ...] = ()
    """Start from only these layers of the weights, counted from 0; empty: all."""


def _ablate(options: Ablate) -> None:
    from rocketjax.ablation.arms import BASE, arm_files, fingerprint
    from rocketjax.ablation.choice import choose, describe
    from rocketjax.ablation.ranks import add_ranks, read_ranks
    from rocketjax.runtime.files import ensure_parent

    files = arm_files(tuple(map(Path, options.configs)), options.base)
    path = _results(options, ".tsv")
    base = f"base {files[BASE].name} ({fingerprint(files[BASE])})"
    title = ", ".join([f"{_name(options)}: {_sizes(options)}", base, *_start(options)])
    fingerprints = {arm: fingerprint(file) for arm, file in files.items() if file.is_file()}
    ranks, _ = read_ranks(path, title, fingerprints)
    if not options.draw:
        wanted, configs = choose(options.arms, files, say)
        ensure_parent(path)  # refused now, and not after hours of training
        for new in _run(options, wanted, configs, ranks):
            ranks = add_ranks(path, title, fingerprints, ranks, new, say)
    if not ranks:
        raise InputError(f"{path}: holds no results yet; run without --draw")
    if not any(arm == options.against for arm, _, _ in ranks):
        raise InputError(f"--against {options.against}: {path} has no results of that arm")
    _draw(options, title, ranks, describe(files))


def _name(options: Ablate) -> str:
    """The collection's, and what was made of it: each has a table and a folder of its own."""
    parts = [Path(options.collection).name]
    parts += [f"hidden{options.hidden:g}"] if options.hidden is not None else []
    parts += [f"unlabelled{options.unlabelled}"] if options.unlabelled else []
    return "-".join(parts)


def _results(options: Ablate, suffix: str) -> Path:
    return Path(options.results) / f"{_name(options)}{suffix}"


def _sizes(options: Ablate) -> str:
    return (
        f"{options.train or 'all'} training queries, {options.held_out or 'all'} held-out "
        f"queries, {options.passages or 'all'} passages, sample {options.sample_seed}"
    )


def _start(options: Ablate) -> list[str]:
    return [f"layers {' '.join(map(str, options.layers))}"] if options.layers else []


def _run(
    options: Ablate, wanted: Sequence[str], configs: Mapping[str, Config], known: "Ranks"
) -> "Iterator[Ranks]":
    """The ranks of everything that is wanted and not known yet, run after run."""
    from rocketjax.ablation import hidden
    from rocketjax.ablation.arms import Trial
    from rocketjax.ablation.run import run_one
    from rocketjax.ablation.sample import Sizes, describe, read_truth, write_sample
    from rocketjax.ablation.shallow import with_layers
    from rocketjax.data.lists import read_lists
    from rocketjax.data.load import load_collection
    from rocketjax.runtime.lock import held

    keep_programs()
    name = _name(options)
    home = Path(options.folder) / name
    sample = home / "collection"
    with held(home, say, wait=True):  # another command may be writing it
        numbers = (options.train, options.held_out, options.passages, options.sample_seed)
        sizes = Sizes(*numbers, options.unlabelled, options.hidden)
        write_sample(load_collection(options.collection), sample, sizes)
        configs = with_layers(configs, options.layers, home / "weights")
    say(describe(sample))
    collection, truth = load_collection(str(sample)), read_truth(sample)
    done = {(arm, seed) for arm, seed, _ in known}
    for seed in options.seeds:
        trial = Trial(configs, sample, seed, home / str(seed))
        for arm in wanted:
            if (arm, seed) not in done:
                say(f"{name}, seed {seed}: {arm}")
                ranks = run_one(arm, trial, collection, say, watch)
                mined = trial.folder / arm / "lists" / "lists.jsonl"
                if truth and mined.is_file():
                    counts = hidden.count(read_lists(mined), truth)
                    hidden.record(_results(options, ".json"), arm, seed, counts, say)
                yield ranks


def _draw(options: Ablate, title: str, ranks: "Ranks", arms: Mapping[str, str]) -> None:
    from rocketjax.ablation import hidden, page
    from rocketjax.ablation.arms import BASE
    from rocketjax.runtime.files import write_text

    name, folder = _name(options), Path(options.results)
    name += "" if options.against == BASE else f"-over-{options.against}"
    over = "the base" if options.against == BASE else options.against
    tables = [page.table(ranks, arms, options.against, each) for each in page.measures(ranks)]
    tables += [counts] if (counts := hidden.table(_results(options, ".json"))) else []
    picture = f"![gains over {over}]({quote(name)}.svg)"
    write_text(folder / f"{name}.md", "\n\n".join([f"# {title}", *tables, picture]) + "\n")
    write_text(folder / f"{name}.svg", page.picture(ranks, list(arms), title, options.against))
    say("\n\n".join(tables))
    say(f"{folder / name}.md and .svg, of {_name(options)}.tsv")


main = command(Ablate, _ablate, then=RESUMES)

if __name__ == "__main__":
    sys.exit(main())
