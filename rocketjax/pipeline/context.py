"""A run at work: its options, folder and collection, and the queries it trains and judges on."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rocketjax.config.schema import Config, DataConfig
from rocketjax.data.collection import Collection, Split, hold_out, relevant, sample_queries
from rocketjax.data.load import load_collection
from rocketjax.runtime import processes
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say, Watch

WITH_STEPS = ("retriever_warmup", "reranker_warmup", "joint")


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
        """Queries nobody judged; mined for pseudo-positives."""
        if not self.config.lists.pseudo_positives:
            return {}  # some collections would fetch them now
        split = self.collection.splits.get("unlabelled")
        return dict(split.queries) if split else {}

    @cached_property
    def queries(self) -> dict[str, str]:
        """All that may be trained on, by id."""
        return self.unlabelled | dict(self.train.queries)


def open_run(config: Config, folder: Path, say: Say, watch: Watch) -> Run:
    """Loads the collection and its splits; what every stage is given."""
    collection = processes.main_first(
        lambda: load_collection(config.data.collection, config.data.on_bad_rows, say)
    )
    processes.check_same("data.collection", collection.fingerprint)
    train, judged = splits_of(collection, config.data, say)
    held_out = sample_queries(judged, config.data.max_eval_queries)
    if config.lists.source == "given":
        len(train.negatives)  # otherwise read late: bad rows are reported before hours of work
    trains = any(getattr(config, name).steps for name in WITH_STEPS)
    for split, name, wanted in ((train, "train", trains), (held_out, "eval", True)):
        if wanted and not any(relevant(judged) for judged in split.qrels.values()):
            raise InputError(
                f"{collection.name}: no query of data.{name}_split has a relevant passage (a grade "
                "above 0); choose another split, or correct its judgements"
            )
    say(
        f"{collection.name}: {len(collection.passages):,} passages, {len(train.queries):,} "
        f"training queries, {len(held_out.queries):,} held-out queries"
    )
    return Run(config, folder, collection, train, held_out, say, watch)


def splits_of(collection: Collection, config: DataConfig, say: Say) -> tuple[Split, Split]:
    """What to train on, and what to judge on, which is no part of it."""
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
