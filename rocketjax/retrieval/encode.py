"""Encodes a corpus of any size into shards of vectors; resumes where it was stopped."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import jax

from rocketjax.config.schema import IndexConfig
from rocketjax.data.collection import Collection
from rocketjax.data.passages import Passage
from rocketjax.inference.retriever import Retriever
from rocketjax.retrieval.quantised import SAMPLE
from rocketjax.retrieval.vectors import (
    MANIFEST,
    Manifest,
    Origin,
    Vectors,
    has_shard,
    read_manifest,
    sweep,
    write_manifest,
    write_shard,
)
from rocketjax.runtime import processes
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import is_empty
from rocketjax.runtime.progress import Watch, silent
from rocketjax.runtime.threads import in_threads
from rocketjax.text.batch import Text
from rocketjax.text.tokenizer import Tokenizer


def origin_of(retriever: Retriever, name: str, collection: Collection) -> Origin:
    """Of the vectors of `collection` by `retriever`, which is called `name`."""
    return Origin(name, retriever.fingerprint, collection.name, collection.fingerprint)


def make_manifest(
    retriever: Retriever, name: str, collection: Collection, config: IndexConfig
) -> Manifest:
    """What encoding `collection` with `retriever` (called `name`) will produce."""
    count = len(collection.passages)
    return Manifest(
        **origin_of(retriever, name, collection)._asdict(),
        passages=count,
        width=retriever.module.width,
        dtype=config.dtype,
        shard=config.shard or min(max(count // 64, 4_096), 65_536),
    )


def encode_corpus(
    retriever: Retriever,
    name: str,
    collection: Collection,
    config: IndexConfig,
    folder: Path,
    watch: Watch,
    worker: tuple[int, int] | None = None,
) -> Vectors | None:
    """Writes the vectors of every passage into `folder`; those that are there stay.

    No more than two shards' texts and one shard's vectors are in memory. While the devices encode
    a shard, a thread tokenises the next.

    Args:
        name: of the model, for the manifest.
        worker: (i, n): encode only every n-th shard, from the i-th; default: this process of all
            jax processes.

    Returns:
        The vectors, or None where other workers' shards are still missing.

    Raises:
        InputError: an empty corpus, or a folder that holds another model's or collection's vectors.
    """
    if not collection.passages:
        raise InputError(f"{collection.name}: the corpus is empty")
    manifest = make_manifest(retriever, name, collection, config)
    index, count = worker or (jax.process_index(), jax.process_count())
    if worker is None:
        said = dataclasses.asdict(manifest) | {"model": "", "collection": ""}  # paths may differ
        processes.check_same("what is encoded", json.dumps(said, indent=0))
        processes.from_main(lambda: _claim(folder, manifest))
    else:
        _claim(folder, manifest)
    sweep(folder, range(index, manifest.shards, count))
    mine = [i for i in range(index, manifest.shards, count) if not has_shard(folder, i)]
    total = sum(len(manifest.rows(i)) for i in mine)
    shown = watch("encode corpus", total, "passages") if mine else nullcontext(silent)
    with shown as advance:
        for shard, texts, ids in _tokenised(mine, manifest, collection, retriever.tokenizer):
            write_shard(folder, shard, ids, retriever.encode_passage_tokens(texts, advance))
    if worker is None:
        processes.barrier()  # no one reads half a corpus
    whole = all(has_shard(folder, i) for i in range(manifest.shards))
    return Vectors(folder) if whole else None


def _claim(folder: Path, manifest: Manifest) -> None:
    """Records in the folder what it will hold; refuses one that holds something else."""
    # Checked first: another worker may claim it at this very moment.
    empty = is_empty(folder, but=SAMPLE)
    if (folder / MANIFEST).is_file():
        other = read_manifest(folder)
        for what in ("model", "collection", "passages", "width", "dtype", "shard"):
            hashed = f"{what}_hash" if hasattr(manifest, f"{what}_hash") else what
            if getattr(other, hashed) != getattr(manifest, hashed):
                raise InputError(
                    f"{folder}: holds vectors of {_named(other, what)}, not of "
                    f"{_named(manifest, what)}; choose another folder, or delete this one"
                )
    elif not empty:
        raise InputError(f"{folder}: holds other files and no vectors; choose another folder")
    else:
        write_manifest(folder, manifest)


def _named(manifest: Manifest, what: str) -> str:
    value = getattr(manifest, what)
    hashed = getattr(manifest, f"{what}_hash", None)
    return f"{what} {value} (hash {hashed})" if hashed else f"{what} {value}"


def _tokenised(
    shards: Sequence[int], manifest: Manifest, collection: Collection, tokenizer: Tokenizer
) -> Iterator[tuple[int, list[Text], list[str]]]:
    """Each shard's tokenised passages and their ids, one shard ahead of who asks."""

    def tokenise(shard: int) -> tuple[int, list[Text], list[str]]:
        rows = manifest.rows(shard)
        passages: Sequence[Passage] = collection.passages[rows.start : rows.stop]
        texts = tokenizer.passage([p.title for p in passages], [p.text for p in passages])
        return shard, texts, [p.id for p in passages]

    yield from in_threads(tokenise, shards, 1)
