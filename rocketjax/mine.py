"""python -m rocketjax.mine: training lists by a trained pair of models."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rocketjax.cli.command import RESUMES, command, say, watch
from rocketjax.config.fields import Count, OnBadRows, PathName, Seed, Share
from rocketjax.config.schema import ComputeConfig, HostsConfig, ListConfig

if TYPE_CHECKING:
    from rocketjax.data.collection import Collection, Split


@dataclass(frozen=True)
class Mine:
    """Mines undenoised and denoised training lists with a trained pair of models.

    A stopped run resumes where it was. The lists are in OUTPUT/lists.jsonl, what was dropped, added
    and topped up in OUTPUT/report.json.

    Example: python -m rocketjax.mine --model runs/demo --output lists/demo --lists.length 16
    """

    model: str
    """Folder of a finished run."""
    output: PathName
    """Folder of the lists, or gs://BUCKET/PATH."""
    collection: str = ""
    """The collection; empty: the run's."""
    on_bad_rows: OnBadRows = "fail"
    index: str = ""
    """Folder of vectors of that collection by that model, searched by ScaNN where that was built
    there, else exactly; empty: the run's index."""
    split: str = "train"
    """Split whose queries are mined for."""
    hold_out: Share = 0.0
    """But not those that a training with `--data.hold-out` of this share judges on."""
    max_queries: Count = 0
    """Mine for this many of the split's first queries; 0: all."""
    seed: Seed = 1
    """Of the sampled negatives."""
    lists: ListConfig = field(default_factory=ListConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)


def _mine(options: Mine) -> None:
    from rocketjax.config.checks import check_lists
    from rocketjax.config.options import option
    from rocketjax.data.collection import Split
    from rocketjax.data.copies import shared_positives
    from rocketjax.evaluation.judged import own_passages
    from rocketjax.mining.mine import mine
    from rocketjax.mining.report import describe
    from rocketjax.mining.rules import unread_line
    from rocketjax.mining.teacher import Texts, keep_scores, open_teacher, with_teacher
    from rocketjax.retrieval.load import collection_for, load, open_corpus
    from rocketjax.runtime import processes
    from rocketjax.runtime.errors import InputError
    from rocketjax.runtime.workplace import opened
    from rocketjax.text.cut import cut_line

    check_lists(options.lists, option)
    of_training = ("refresh", "after", "easy")
    if options.lists.source == "given" or any(getattr(options.lists, n) for n in of_training):
        raise InputError(
            "--lists.source given, --lists.refresh, --lists.after, --lists.easy: for training; "
            "leave them out"
        )
    if line := unread_line(options.lists):
        say(line)
    processes.check_shared(Path(options.output))
    model = load(options.model, options.compute)
    folder = Path(options.model)
    collection = processes.main_first(
        lambda: collection_for(folder, options.collection, options.on_bad_rows, say)
    )
    corpus = open_corpus(folder, model.retriever, collection, options.index, say)
    split = _asked(options, collection)
    tokenizers = (model.retriever.tokenizer, model.reranker.tokenizer)
    if line := cut_line(options.split, split, collection.passages, *tokenizers):
        say(line)
    if line := own_passages(split.queries, collection.by_id):
        say(f"{options.split}: {line}; this passage is not mined")
    queries = dict(split.queries)
    shared = shared_positives(queries, split.qrels)
    if options.max_queries:
        queries = dict(list(queries.items())[: options.max_queries])
    mined = Split(queries, split.qrels, shared=shared, scores=split.scores)
    teacher = open_teacher(options.lists.teacher, options.compute, mined, say)
    with opened(options.output, say) as place:
        lists, report = mine(
            with_teacher(model, teacher),
            corpus,
            mined,
            options.lists,
            options.seed,
            place.folder,
            place.watched(watch),
        )
        texts = Texts(queries, collection.by_id)
        scores = keep_scores(place.folder, teacher, texts, place.watched(watch))
    say(describe(report, queries.__getitem__, lambda pid: texts.passages[pid].whole))
    if scores:
        say(scores)
    say(f"{len(lists):,} lists in {options.output}/lists.jsonl")


def _asked(options: Mine, collection: "Collection") -> "Split":
    """The queries to mine for, unlabelled ones too where wanted, without what is held out."""
    from rocketjax.data.collection import hold_out, without_texts_of

    split = collection.split(options.split)
    train, judged = hold_out(split, options.hold_out)
    if options.lists.takes_unlabelled and "unlabelled" in collection.splits:
        queries = {**train.queries, **collection.splits["unlabelled"].queries}
        train = replace(train, queries=queries)
    kept = without_texts_of(train, judged)
    if leaked := len(train.queries) - len(kept.queries):
        say(f"{leaked:,} queries say what a held-out one says, and are not mined for")
    return kept


main = command(Mine, _mine, then=RESUMES)

if __name__ == "__main__":
    sys.exit(main())
