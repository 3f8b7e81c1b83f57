"""A run at work: its options, folder and collection, and the queries it trains and judges on."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rocketjax.config.schema import Config, DataConfig, run_name
from rocketjax.data.collection import (
    Collection,
    Split,
    hold_out,
    relevant,
    sample_queries,
    without_texts_of,
)
from rocketjax.data.copies import shared_positives
from rocketjax.data.load import load_collection
from rocketjax.evaluation.judged import as_judged
from rocketjax.runtime import processes
from rocketjax.runtime.cloud import is_address
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say, Watch, unsaid
from rocketjax.runtime.workplace import uncommitted
from rocketjax.training.callbacks import Callback

WITH_STEPS = ("retriever_warmup", "reranker_warmup", "joint")


class Watching(NamedTuple):
    """Who follows a run."""

    say: Say
    watch: Watch
    callbacks: Sequence[Callback] = ()
    commit: Callable[[], None] = uncommitted  # what is there is to outlast this machine


@dataclass(frozen=True)
class Run:
    """What every stage is given."""

    config: Config
    folder: Path
    collection: Collection
    train: Split
    held_out: Split
    say: Say
    watch: Watch
    callbacks: Sequence[Callback] = ()
    commit: Callable[[], None] = uncommitted

    def name_of(self, path: Path) -> str:
        """A path in the run's folder, by the name that the folder was given."""
        name = run_name(self.config)
        if not is_address(name):
            return str(path)
        return f"{name.rstrip('/')}/{path.relative_to(self.folder)}".removesuffix("/.")

    @cached_property
    def _noted(self) -> set[str]:
        return set()

    def note(self, lines: Iterable[str]) -> None:
        """Says each line once, though every stage opens its models anew."""
        for line in lines:
            if line not in self._noted:
                self._noted.add(line)
                self.say(line)

    @cached_property
    def order(self) -> list[str]:
        """Training queries (unlabelled ones too, where wanted) in the order they are drawn."""
        names = sorted(self.queries)
        return [names[i] for i in np.random.default_rng(self.config.seed).permutation(len(names))]

    @cached_property
    def unlabelled(self) -> dict[str, str]:
        """Queries nobody judged; mined for pseudo-positives, or for lists without a label."""
        if not self.config.lists.takes_unlabelled:
            return {}  # some collections would fetch them now
        split = self.collection.splits.get("unlabelled")
        if not split:
            return {}
        # All that may be judged on, not the sample that this run takes: as for labelled ones.
        _, judged = _splits(self.collection, self.config.data, unsaid)
        kept = _unleaked(self.collection, "unlabelled", split, judged, self.config.data, self.say)
        return dict(kept.queries)

    @cached_property
    def queries(self) -> dict[str, str]:
        """All that may be trained on, by id."""
        return self.unlabelled | dict(self.train.queries)

    @cached_property
    def judged(self) -> Split:
        """The same with what is judged, and what queries of one text share."""
        shared = shared_positives(self.queries, self.train.qrels)
        return dataclasses.replace(self.train, queries=self.queries, shared=shared)


def open_run(config: Config, folder: Path, watching: Watching) -> Run:
    """Loads the collection and its splits; what every stage is given."""
    say = watching.say
    collection = processes.main_first(
        lambda: load_collection(config.data.collection, config.data.on_bad_rows, say)
    )
    processes.check_same("data.collection", collection.fingerprint)
    train, judged = splits_of(collection, config.data, say)
    held_out = sample_queries(judged, config.data.max_eval_queries)
    if config.lists.source == "given":
        len(train.negatives)  # otherwise read late: bad rows are reported before hours of work
    trains = any(getattr(config, name).steps for name in WITH_STEPS)
    if trains and not any(relevant(judged) for judged in train.qrels.values()):
        raise InputError(
            f"{collection.name}: no query of data.train_split has a relevant passage (a grade "
            "above 0); choose another split, or correct its judgements"
        )
    held_out = as_judged(held_out, collection, config.evaluate, say)
    say(
        f"{collection.name}: {len(collection.passages):,} passages, {len(train.queries):,} "
        f"training queries, {len(held_out.queries):,} held-out queries"
    )
    return Run(config, folder, collection, train, held_out, *watching)


def splits_of(collection: Collection, config: DataConfig, say: Say) -> tuple[Split, Split]:
    """What to train on, and what to judge on, which is no part of it."""
    train, judged = _splits(collection, config, say)
    kept = _unleaked(collection, "training", train, judged, config, say)
    if train.queries and not kept.queries:
        raise InputError(
            f"{collection.name}: all {len(train.queries):,} training queries say what a held-out "
            "query says, and models are not judged on what they were trained on; choose another "
            "split to judge on (--data.eval-split), or train on them all the same: --data.leaked "
            "train"
        )
    return kept, judged


def _unleaked(
    collection: Collection, kind: str, train: Split, judged: Split, config: DataConfig, say: Say
) -> Split:
    """Without the queries that say what a judged one says, unless `data.leaked` keeps them."""
    kept = without_texts_of(train, judged)
    if leaked := len(train.queries) - len(kept.queries):
        skipped = "not trained on (--data.leaked train does)"
        say(
            f"{collection.name}: {leaked:,} {kind} queries say what a held-out query says, under "
            f"other ids, and are {skipped if config.leaked == 'skip' else 'trained on'}"
        )
    return kept if config.leaked == "skip" else train


def _splits(collection: Collection, config: DataConfig, say: Say) -> tuple[Split, Split]:
    train = collection.split(config.train_split)
    if not config.hold_out:
        if config.eval_split == config.train_split:
            raise InputError(
                f"data.eval_split and data.train_split are both {config.train_split!r}, and models "
                "are not judged on what they were trained on; give --data.eval-split an unused "
                "name and --data.hold-out 0.1 to judge on a tenth and train on the others"
            )
        if config.eval_split not in collection.splits:
            raise InputError(
                f"{collection.name} has no split {config.eval_split!r} to judge on (it has "
                f"{', '.join(collection.splits)}); give --data.eval-split, or --data.hold-out 0.1 "
                "to judge on a tenth of the training queries and train on the others"
            )
        judged = collection.split(config.eval_split)
        if both := train.queries.keys() & judged.queries.keys():
            say(
                f"{collection.name}: {len(both):,} queries of {config.train_split} are in "
                f"{config.eval_split} too, and are not trained on"
            )
            train = train.only(query for query in train.queries if query not in both)
        return train, judged
    if config.eval_split in collection.splits:
        raise InputError(
            f"--data.hold-out is for collections without split {config.eval_split!r}, which "
            f"{collection.name} has; leave it out"
        )
    return hold_out(train, config.hold_out)
