"""Builds and opens the index over a corpus' vectors: ScaNN where it is installed, else exact."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pydantic

from rocketjax.config.fields import Size
from rocketjax.config.options import check_index
from rocketjax.config.schema import IndexConfig
from rocketjax.retrieval.exact import ExactIndex
from rocketjax.retrieval.index import Index, recall
from rocketjax.retrieval.quantised import MEASURED
from rocketjax.retrieval.scann import build_scann, missing, open_scann
from rocketjax.retrieval.vectors import Origin, Vectors
from rocketjax.runtime import processes
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_json, valid, write_json
from rocketjax.runtime.progress import Say, unsaid

_SETTINGS = "exact.json"


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class _Settings:
    """exact.json: how quantised vectors are searched, wherever the folder is opened."""

    rescore: Size  # of IndexConfig, when the index was built


def build_index(
    vectors: Vectors, config: IndexConfig, queries: np.ndarray, top_k: int, say: Say
) -> Index:
    """An index over `vectors`, as the config asks for; an exact one needs nothing on disk.

    "auto" takes ScaNN where it is installed and one process runs. Vectors in int8 or binary are
    searched exactly; the recall that their type costs is measured and said, and `config.rescore` is
    kept in the folder.

    Args:
        queries: [S, D], on which an approximate index's recall@top_k is measured.

    Raises:
        InputError: ScaNN is required and not installed, or several processes run.
    """
    _check_kind(config, vectors)
    if vectors.quantised:
        settings = {"rescore": config.rescore}
        processes.from_main(lambda: write_json(vectors.folder / _SETTINGS, settings))
        index = ExactIndex(vectors, rescore=config.rescore)
        say(_measured(index, config))
        return index
    if config.kind == "scann" or (config.kind == "auto" and _alone() and not missing()):
        return build_scann(vectors, config, queries, top_k, say)
    if config.kind == "auto" and _alone():
        say(f"{missing()}: exact search stands in")
    return ExactIndex(vectors)


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
    _check_kind(config, vectors)
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


def _check_kind(config: IndexConfig, vectors: Vectors) -> None:
    check_index(dataclasses.replace(config, dtype=vectors.manifest.dtype), str)
    if config.kind == "scann" and not _alone():
        raise InputError(
            "ScaNN searches within one process; where several run take --index.kind auto or exact "
            "(for a run that has its vectors, --index RUN/index), which spreads the corpus over "
            "the devices of all"
        )


def _alone() -> bool:
    """One process; several spread the corpus over all their devices and search it together."""
    return jax.process_count() == 1
