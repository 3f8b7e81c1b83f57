"""python -m rocketjax.encode: a corpus to vectors on disk, and an index over them."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rocketjax.cli.command import RESUMES, command, say, watch
from rocketjax.config.fields import (
    Count,
    NormalizeOption,
    OnBadRows,
    PathName,
    PoolingOption,
    Size,
    TruncateOption,
)
from rocketjax.config.schema import ComputeConfig, HostsConfig, IndexConfig, TextOptions

if TYPE_CHECKING:
    from rocketjax.data.collection import Collection
    from rocketjax.inference.retriever import Retriever
    from rocketjax.retrieval.index import Sample
    from rocketjax.runtime.workplace import Workplace


@dataclass(frozen=True)
class Encode:
    """Encodes a collection's passages with a trained retriever and builds an index over them.

    A stopped encode resumes at the shard it was at. Several workers share the work:
    --worker 0 --workers 4, and so on; the last to finish builds the index.

    Example: python -m rocketjax.encode --model runs/demo --collection demo --output indexes/demo
    """

    model: str
    """Folder of a run or of a retriever; or weights by folder or hub name, such as those of
    sentence-transformers."""
    collection: str
    """The collection, of any format that training takes."""
    output: PathName
    """Folder of the vectors and the index, or gs://BUCKET/PATH."""
    on_bad_rows: OnBadRows = "fail"
    queries: str = ""
    """Split whose first 200 queries measure the index's recall; empty: train, or passages where
    there is none."""
    worker: Count = 0
    """Which of the workers this is, from 0."""
    workers: Size = 1
    """How many workers encode shards of the same output."""
    text: TextOptions = field(default_factory=TextOptions)
    """How it reads texts; what is not given is as the model's folder says."""
    pooling: PoolingOption = "auto"
    normalize: NormalizeOption = None
    truncate: TruncateOption = None
    index: IndexConfig = field(default_factory=IndexConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)


def _encode(options: Encode) -> None:
    import jax

    from rocketjax.config.checks import OF_RERANKER, check_text
    from rocketjax.config.index import check_index
    from rocketjax.config.options import option
    from rocketjax.data.collection import Split
    from rocketjax.data.load import load_collection
    from rocketjax.inference.folder import open_retriever
    from rocketjax.retrieval.open import check_buildable
    from rocketjax.retrieval.quantised import is_quantised
    from rocketjax.runtime import processes
    from rocketjax.runtime.errors import InputError
    from rocketjax.runtime.workplace import opened
    from rocketjax.text.cut import cut_line

    if options.workers > 1 and jax.process_count() > 1:
        raise InputError("--workers share work without knowing of each other; leave --hosts out")
    check_index(options.index, option)
    check_text(options.text, OF_RERANKER, option)
    if options.queries and options.index.kind == "exact" and not is_quantised(options.index.dtype):
        raise InputError(
            "--queries: recall is measured of ScaNN and of int8 and binary vectors, and exact "
            "search of others finds all there is; leave it out"
        )
    if options.worker >= options.workers:
        raise InputError(f"--worker is {options.worker}: with {options.workers} workers, below it")
    retriever = open_retriever(
        options.model,
        options.compute,
        options.text,
        options.pooling,
        options.normalize,
        say,
        options.truncate,
    )
    processes.check_shared(Path(options.output))
    collection = processes.main_first(
        lambda: load_collection(options.collection, options.on_bad_rows, say)
    )
    check_buildable(options.index, len(collection.passages))
    sample = _sample(options.queries, retriever, collection)
    name, corpus = collection.name, collection.passages
    if line := cut_line(name, Split({}, {}), corpus, retriever.tokenizer, None):
        say(line)
    alone = options.workers == 1
    with opened(options.output, say, shared=not alone) as place:
        _encode_into(place, options, retriever, collection, sample)


def _encode_into(
    place: "Workplace",
    options: Encode,
    retriever: "Retriever",
    collection: "Collection",
    sample: "Sample",
) -> None:
    from rocketjax.retrieval.encode import encode_corpus
    from rocketjax.retrieval.open import build_index, sample_first

    folder, watched = place.folder, place.watched(watch)
    worker = (options.worker, options.workers) if options.workers > 1 else None
    sample_first(options.index, sample, folder, say)
    vectors = encode_corpus(
        retriever, options.model, collection, options.index, folder, watched, worker
    )
    if vectors is None:
        say(f"{options.output}: this worker's shards are done, others are missing")
        return
    say(f"{options.output}: {len(vectors):,} vectors of {vectors.width}, {options.index.dtype}")
    build_index(vectors, options.index, sample, min(100, len(vectors)), say)


def _sample(queries: str, retriever: "Retriever", collection: "Collection") -> "Sample":
    """The queries on which recall is measured, or passages. Raises InputError: no such split."""
    from rocketjax.retrieval.index import Sample

    split = collection.split(queries) if queries else collection.splits.get("train")
    if split and (texts := list(split.queries.values())[:200]):
        name = f"queries of {queries or 'train'}"
        return Sample(name, lambda: retriever.encode_query(texts, steady=True))
    first = collection.passages[:200]
    texts, titles = [p.text for p in first], [p.title for p in first]
    return Sample("passages", lambda: retriever.encode_passage(texts, titles, steady=True))


main = command(Encode, _encode, then=RESUMES)

if __name__ == "__main__":
    sys.exit(main())
