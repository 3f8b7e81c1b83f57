"""Builds and opens the index over a corpus' vectors: ScaNN where it is installed, else exact."""

import dataclasses
import shutil
from pathlib import Path

import jax
import pydantic

from rocketjax.config.fields import Size
from rocketjax.config.index import OF_SCANN, check_index, check_kind
from rocketjax.config.schema import IndexConfig
from rocketjax.retrieval.exact import ExactIndex
from rocketjax.retrieval.index import Index, Sample, recall
from rocketjax.retrieval.quantised import MEASURED, SAMPLE, is_quantised, keep_sample
from rocketjax.retrieval.scann import (
    ScannIndex,
    asked_of,
    build_scann,
    check_installed,
    leaves_of,
    missing,
    open_scann,
)
from rocketjax.retrieval.vectors import Origin, Vectors
from rocketjax.runtime import processes
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import is_empty, read_json, valid, write_json
from rocketjax.runtime.progress import Say, unsaid

_SETTINGS = "exact.json"


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class _Settings:
    """exact.json: how quantised vectors are searched, wherever the folder is opened."""

    rescore: Size  # of IndexConfig, when the index was built


def check_buildable(config: IndexConfig, passages: int) -> None:
    """Refuses, before hours of encoding, an index that could not be built after them.

    Raises:
        InputError: ScaNN is required and not installed, or several processes run; or the corpus has
            fewer passages than the index leaves.
    """
    _check_alone(config)
    if config.kind == "scann":
        check_installed()
    if _takes_scann(config):
        leaves_of(config, passages)


def sample_first(config: IndexConfig, sample: Sample, folder: Path, say: Say) -> None:
    """Before a corpus is encoded in int8 or binary: keeps the sample that measures its recall.

    A folder that holds vectors keeps the sample that it has: what is found of another would need
    all vectors in float32 once more.
    """
    if not is_quantised(config.dtype):
        return
    if processes.from_main(lambda: is_empty(folder, but=SAMPLE)):
        queries = sample.encode()
        processes.from_main(lambda: keep_sample(folder, queries))
        say(f"{folder}: recall will be measured on {len(queries)} {sample.name}")
    else:
        say(f"{folder}: recall is measured on the texts that the folder's first encode chose")


def build_index(
    vectors: Vectors, config: IndexConfig, sample: Sample, top_k: int, say: Say
) -> Index:
    """An index over `vectors`, as the config asks for; an exact one needs nothing on disk.

    "auto" takes ScaNN where it is installed and one process runs; an index of it that was built as
    is asked now is opened, any other is built again. Vectors in int8 or binary are searched
    exactly; the recall that their type costs is measured and said, and `config.rescore` is kept in
    the folder.

    Args:
        sample: on which an approximate index's recall@top_k is measured.

    Raises:
        InputError: what `check_buildable` raises.
    """
    check_index(_typed(config, vectors), str)
    check_buildable(config, len(vectors))
    if vectors.quantised:
        settings = {"rescore": config.rescore}
        processes.from_main(lambda: write_json(vectors.folder / _SETTINGS, settings))
        index = ExactIndex(vectors, rescore=config.rescore)
        say(_measured(index, config))
        return index
    if _takes_scann(config):
        if kept := _kept(vectors, config, sample.name, top_k, say):
            return kept
        return build_scann(vectors, config, sample.encode(), top_k, say, sample.name)
    if config.kind == "exact":
        _set_aside(vectors.folder / "scann", say)
    if config.kind == "auto":
        default = IndexConfig()
        unread = [f"index.{x}" for x in OF_SCANN if getattr(config, x) != getattr(default, x)]
        idle = f"; not used: {', '.join(unread)}" if unread else ""
        say(f"{_why_no_scann()}: exact search stands in{idle}")
    return ExactIndex(vectors)


def _set_aside(folder: Path, say: Say) -> None:
    """Renames the ScaNN index that a search would take: it may have cost hours to build."""
    if not processes.from_main(folder.is_dir):
        return
    aside = folder.with_name("scann.unused")

    def rename() -> None:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)

    processes.from_main(rename)
    say(
        f"{folder}: a search would take it, and --index.kind is exact; it is {aside.name}/ now "
        "(delete it, or rename it back to search it)"
    )


def _takes_scann(config: IndexConfig) -> bool:
    return config.kind == "scann" or (config.kind == "auto" and _alone() and not missing())


def _kept(
    vectors: Vectors, config: IndexConfig, sample: str, top_k: int, say: Say
) -> ScannIndex | None:
    """The index that is there, if it was built as is asked now."""
    folder = vectors.folder / "scann"
    if not folder.is_dir():
        return None
    index, asked = open_scann(vectors), asked_of(config, sample, top_k)
    before = index.settings.asked or {}
    if before == asked:
        measured = f"recall@{top_k} {index.settings.recall:.4f} on {sample}"
        say(f"{folder}: there already, built by these options; {measured}")
        return index
    changes = [f"{x}: {before[x]} -> {asked[x]}" for x in before if before[x] != asked.get(x)]
    why = ", ".join(changes) or "an older version built it, and kept no options"
    say(f"{folder}: built again; {why}")
    return None


def open_index(folder: Path, config: IndexConfig, expected: Origin, say: Say = unsaid) -> Index:
    """Opens the vectors of a folder, and the ScaNN index beside them if it is to be used.

    Nothing is built: where "auto" finds no ScaNN index, search is exact. Vectors in int8 or binary
    are searched as the index was built, whatever `config.rescore` is.

    Args:
        expected: the retriever that queries will be encoded with, and the collection whose
            passages the ids stand for.
        say: prints which kind of search is used.

    Raises:
        InputError: vectors of another model or collection (both are named), damaged files, or
            ScaNN required where several processes run.
    """
    vectors = Vectors(folder)
    check_kind(_typed(config, vectors), str)
    _check_alone(config)
    for what in ("model", "collection"):
        (old, old_hash), (new, new_hash) = (
            (getattr(origin, what), getattr(origin, f"{what}_hash"))
            for origin in (vectors.manifest, expected)
        )
        if old_hash != new_hash:
            raise InputError(
                f"{folder}: made of {what} {old} (hash {old_hash}), but this is {what} {new} (hash "
                f"{new_hash}); encode the corpus again, with python -m rocketjax.encode"
            )
    if vectors.quantised:
        rescore = _remembered(folder, config.rescore)
        say(
            f"{folder}: exact search; its vectors are {vectors.manifest.dtype}, "
            f"{rescore} candidates scored again for each passage"
        )
        return ExactIndex(vectors, rescore=rescore)
    built = (folder / "scann").is_dir()
    if config.kind == "scann" or (config.kind == "auto" and built and _alone() and not missing()):
        say(f"{folder}: ScaNN searches it")
        return open_scann(vectors)
    say(f"{folder}: exact search; {_why_exact(config, built)}")
    return ExactIndex(vectors)


def _remembered(folder: Path, default: int) -> int:
    """The rescore with which the index was built; an older one does not tell."""
    path = folder / _SETTINGS
    if not path.is_file():
        return default
    return valid(_Settings, read_json(path), path, "encode the corpus again").rescore


def _why_exact(config: IndexConfig, built: bool) -> str:
    """Why not ScaNN, which on a CPU is much the faster one."""
    if config.kind == "exact":
        return "--index.kind exact"
    if not built:
        return "no ScaNN index was built there"
    return _why_no_scann()


def _why_no_scann() -> str:
    return missing() if _alone() else "several processes search together"


def _measured(index: ExactIndex, config: IndexConfig) -> str:
    """One line: how much of what the vectors would find in float32 is found."""
    vectors, top_k = index.vectors, min(MEASURED, len(index.vectors))
    line = (
        f"{vectors.folder}: {vectors.manifest.dtype}, {vectors.row_bytes} bytes a vector, exact "
        f"search, {config.rescore} candidates scored again for each passage"
    )
    if absent := vectors.unmeasured():
        return (
            f"{line}; recall is not known: {absent[0]} is missing, as of vectors that an older "
            "version encoded, and they are not kept in float32; encode into another folder to "
            "measure it"
        )
    queries, exact = vectors.exact_best(top_k)
    found, _ = index.rows(queries, top_k)
    shares = [
        f"recall@{k} {recall(found[:, :k], exact[:, :k]):.4f}"
        for k in sorted({min(10, top_k), top_k})
    ]
    return f"{line}; {', '.join(shares)} of float32 on {len(queries)} queries"


def _typed(config: IndexConfig, vectors: Vectors) -> IndexConfig:
    return dataclasses.replace(config, dtype=vectors.manifest.dtype)


def _check_alone(config: IndexConfig) -> None:
    if config.kind == "scann" and not _alone():
        raise InputError(
            "ScaNN searches within one process; where several run take --index.kind auto or exact "
            "(for a run that has its vectors, --index RUN/index), which spreads the corpus over "
            "the devices of all"
        )


def _alone() -> bool:
    """One process; several spread the corpus over all their devices and search it together."""
    return jax.process_count() == 1
