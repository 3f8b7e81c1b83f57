"""Approximate top-k by dot product with ScaNN, on the CPU: its only importer."""

import dataclasses
import functools
import hashlib
import importlib.util
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import pydantic

from rocketjax.config.index import OF_SCANN
from rocketjax.config.schema import IndexConfig
from rocketjax.retrieval.exact import ExactIndex
from rocketjax.retrieval.index import check_search, recall
from rocketjax.retrieval.vectors import Manifest, Vectors
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import (
    MAX_SETTINGS_BYTES,
    checked_file,
    map_npy,
    new_folder,
    read_json,
    valid,
    write_json,
)
from rocketjax.runtime.progress import Say
from rocketjax.runtime.threads import cores

SETTINGS = "index.json"
ASSETS = "scann_assets.pbtxt"
BRUTE_FORCE = 20_000  # up to this many passages ScaNN's authors compare with all of them,
NO_TREE = 100_000  # up to this many with all their quantised forms
PIECE = 2**30  # bytes of the corpus on a device at once, while the width is tuned
SCATTERED = 4  # times as long as in a row does it take to read from all over the memory
_Count: TypeAlias = Annotated[int, pydantic.Field(ge=0, lt=2**31)]


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Settings:
    """index.json: how widely a built index is searched, and whose vectors it holds."""

    leaves: _Count  # partitions; 0: none
    leaves_to_search: _Count
    reorder: _Count  # passages scored exactly; 0: all are anyway
    top_k: Annotated[_Count, pydantic.Field(ge=1)]  # what these were chosen for
    recall: float  # of the exact top_k, measured on a sample
    vectors: Manifest
    digest: str = ""  # of what ScaNN parses: its C++ aborts the process over some damages
    asked: dict[str, int | float | str] | None = None  # None: an older version did not keep it


class ScannIndex:
    """A built index. `search` follows `Index.search`; safe to share between threads."""

    def __init__(self, vectors: Vectors, searcher: Any, settings: Settings) -> None:
        """Use `build_scann` or `open_scann`."""
        self.vectors = vectors
        self.settings = settings
        self.searcher = searcher
        self._threads = cores()

    def search(self, queries: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index.search`. Above the top_k it was made for, it searches wider in proportion."""
        rows, scores = self.rows(queries, top_k)
        return self.vectors.names(rows), scores

    def rows(self, queries: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """The same by row: rows [Q, top_k] int64, -1 where nothing was found, and scores."""
        check_search(queries, top_k, self.vectors)
        if not len(queries):
            return np.empty((0, top_k), np.int64), np.empty((0, top_k), np.float32)
        wider = max(1.0, top_k / self.settings.top_k)
        leaves = min(self.settings.leaves, round(wider * self.settings.leaves_to_search))
        reorder = min(len(self.vectors), max(top_k, round(wider * self.settings.reorder)))
        width = (top_k, reorder if self.settings.reorder else -1, leaves or -1)
        queries = np.ascontiguousarray(queries, np.float32)
        if len(queries) == 1:
            return self._one(queries[0], *width)
        if self._threads == 1:
            rows, scores = self.searcher.search_batched(queries, *width)
        else:
            # By itself it hands out 256 queries at a time, so that fewer have one thread only.
            share = min(-(-len(queries) // self._threads), 256)
            rows, scores = self.searcher.search_batched_parallel(queries, *width, share)
        rows = rows.astype(np.int64)
        nothing = np.isnan(scores)
        if nothing.any():  # ScaNN fills up with NaN where it finds fewer
            rows[nothing], scores = -1, np.where(nothing, -np.inf, scores)
        return rows, scores.astype(np.float32, copy=False)

    def _one(
        self, query: np.ndarray, top_k: int, reorder: int, leaves: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """A query [D] by itself: faster than a batch of one, and the same bits."""
        row, score = self.searcher.search(query, top_k, reorder, leaves)
        if missing := top_k - len(row):  # here it does not fill up
            row = np.pad(row.astype(np.int64), (0, missing), constant_values=-1)
            score = np.pad(score, (0, missing), constant_values=-np.inf)
        return row[None].astype(np.int64), score[None]

    def use_threads(self, threads: int) -> None:
        """Searches with this many threads from now on; at first, with one a core."""
        self._threads = threads
        if threads > 1:
            self.searcher.set_num_threads(threads - 1)  # the caller's own is one more


_Measure: TypeAlias = Callable[[int, int], ScannIndex]  # of leaves to search and of reorder


def missing() -> str:
    """Why ScaNN cannot be used here; empty where it can."""
    loaded = _loaded()
    return loaded if isinstance(loaded, str) else ""


@functools.cache
def _loaded() -> Any:
    """The library; or why it is not there.

    It takes TensorFlow where that is installed, which it needs for nothing that is used here, and
    breaks on any other than the one it was built for.
    """
    if importlib.util.find_spec("scann") is None:
        return "ScaNN is not installed (its wheels are for Linux on x86 and Python up to 3.13)"
    hidden = "tensorflow" not in sys.modules
    if hidden:
        sys.modules["tensorflow"] = None  # pyright: ignore[reportArgumentType]
    try:
        import scann
    except Exception as error:  # TensorFlow's own, where that was imported before
        first = str(error).partition("\n")[0]
        return f"ScaNN cannot be loaded with this TensorFlow ({first})"
    finally:
        if hidden:
            del sys.modules["tensorflow"]
    return scann


def leaves_of(config: IndexConfig, count: int) -> int:
    """Into how many partitions an index of `count` passages is cut; 0: it is not.

    Raises:
        InputError: more than there are passages, or fewer than are to be searched.
    """
    leaves = config.leaves or (0 if count < NO_TREE else round(count**0.5))
    if leaves > count:
        raise InputError(
            f"index.leaves is {leaves:,}, but the corpus holds {count:,} passages; give at most "
            "as many, or leave it out"
        )
    if leaves and config.leaves_to_search > leaves:
        raise InputError(
            f"index.leaves_to_search is {config.leaves_to_search:,}, but there are {leaves:,} "
            "leaves; give at most as many, or leave it out"
        )
    return leaves


def asked_of(config: IndexConfig, sample: str, top_k: int) -> dict[str, int | float | str]:
    """What an index is built by; of other values, another one would come out."""
    options: dict[str, int | float | str] = {f"index.{x}": getattr(config, x) for x in OF_SCANN}
    return options | {"sample": sample, "top_k": top_k}


def build_scann(
    vectors: Vectors,
    config: IndexConfig,
    queries: np.ndarray,
    top_k: int,
    say: Say,
    sample: str = "queries",
) -> ScannIndex:
    """Builds an index and saves it in the vectors' folder, whole or not at all.

    Parameters follow its authors' guidance for the corpus size. Then the search is widened until
    `config.target_recall` of the exact `top_k` is found, on average over `queries` [S, D]; what the
    config sets itself is left as it is.

    Args:
        sample: what the queries are, for people.
    """
    ops = _ops()
    started = time.monotonic()
    count = len(vectors)
    leaves = leaves_of(config, count)
    builder = ops.builder(vectors.in_float32(), top_k, "dot_product")
    if leaves:
        builder = builder.tree(
            num_leaves=leaves,
            num_leaves_to_search=leaves,
            training_sample_size=min(count, 50 * leaves + 100_000),
            random_init=False,  # whose seed is the clock's; k-means++ builds the same each time
        )
    plain = count < BRUTE_FORCE and not leaves
    if plain:
        builder = builder.score_brute_force()
    else:
        # Two dimensions a block and a threshold of 0.2: what ScaNN's authors advise for AH.
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
        builder = builder.reorder(top_k, quantize=_reorder_type(vectors))
    searcher = builder.build()
    del builder  # and our float32 corpus; ScaNN had a copy of its own
    built = time.monotonic() - started
    settings = Settings(
        leaves=leaves,
        leaves_to_search=config.leaves_to_search or -(-leaves // 20),
        reorder=0 if plain else (config.reorder or 2 * top_k),
        top_k=top_k,
        recall=0.0,
        vectors=vectors.manifest,
        asked=asked_of(config, sample, top_k),
    )
    index = _tuned(ScannIndex(vectors, searcher, settings), config, queries)
    chosen = index.settings
    say(
        f"ScaNN: {count:,} passages in {built:.1f} s, "
        + (f"{chosen.leaves_to_search} of {leaves} leaves, " if leaves else "")
        + ("brute force, " if plain else f"{chosen.reorder} reordered, ")
        + f"recall@{top_k} {chosen.recall:.4f} of exact search on {len(queries)} {sample}"
        + _unread(config, leaves, plain)
    )
    with new_folder(vectors.folder / "scann") as aside:
        searcher.serialize(str(aside), relative_path=True)
        chosen = dataclasses.replace(chosen, digest=_digest(aside))
        write_json(aside / SETTINGS, dataclasses.asdict(chosen))  # pyright: ignore
    return index


def _unread(config: IndexConfig, leaves: int, plain: bool) -> str:
    """Of an index's line: the options that were set and that so small a corpus has no use for."""
    unread = {
        "index.leaves_to_search (no leaves)": config.leaves_to_search and not leaves,
        "index.reorder (brute force)": config.reorder and plain,
    }
    names = [name for name, is_unread in unread.items() if is_unread]
    return f"; not used: {', '.join(names)}" if names else ""


def open_scann(vectors: Vectors) -> ScannIndex:
    """Loads what `build_scann` saved next to the vectors.

    Raises:
        InputError: no index there, one of other vectors, or files that do not belong to one.
    """
    folder = vectors.folder / "scann"
    path = folder / SETTINGS
    settings = valid(Settings, read_json(path), path, f"delete {folder} and build it again")
    if settings.vectors != vectors.manifest:
        old, new = settings.vectors, vectors.manifest
        raise InputError(
            f"{folder}: an index of {old.collection} by {old.model} (hashes {old.collection_hash}, "
            f"{old.model_hash}), but the vectors are of {new.collection} by {new.model} (hashes "
            f"{new.collection_hash}, {new.model_hash}); delete it and build it again"
        )
    _refuse_strangers(folder, len(vectors))
    if settings.digest != _digest(folder):
        raise InputError(f"{folder}: damaged: not as it was built; delete it and build it again")
    try:
        return ScannIndex(vectors, _ops().load_searcher(str(folder)), settings)
    except InputError:  # ScaNN is not installed
        raise
    except Exception as error:  # whatever its C++ makes of a damaged file
        raise InputError(f"{folder}: damaged: {error}; delete it and build it again") from error


def _tuned(index: ScannIndex, config: IndexConfig, queries: np.ndarray) -> ScannIndex:
    """The width that finds the target recall for the least work; the widest where none does."""
    exact, _ = ExactIndex(index.vectors, memory=PIECE).rows(queries, index.settings.top_k)
    measure = partial(_measured, index, queries, exact)
    return _narrowed(measure, _widened(measure, index.settings, config), config)


def _measured(
    index: ScannIndex, queries: np.ndarray, exact: np.ndarray, leaves: int, reorder: int
) -> ScannIndex:
    """The index searched so widely, its recall measured."""
    settings = dataclasses.replace(index.settings, leaves_to_search=leaves, reorder=reorder)
    found, _ = ScannIndex(index.vectors, index.searcher, settings).rows(queries, settings.top_k)
    settings = dataclasses.replace(settings, recall=round(recall(found, exact), 6))
    return ScannIndex(index.vectors, index.searcher, settings)


def _widened(measure: _Measure, settings: Settings, config: IndexConfig) -> ScannIndex:
    """Doubles what is searched until the target recall is met, or all is searched."""
    leaves, reorder = settings.leaves_to_search, settings.reorder
    while True:
        index = measure(leaves, reorder)
        wider = (
            leaves if config.leaves_to_search else min(settings.leaves, 2 * leaves),
            reorder if config.reorder else min(settings.vectors.passages, 2 * reorder),
        )
        if index.settings.recall >= config.target_recall or wider == (leaves, reorder):
            return index
        leaves, reorder = wider


def _narrowed(measure: _Measure, wide: ScannIndex, config: IndexConfig) -> ScannIndex:
    """The cheapest that finds the target too, or as much as the wide one where that does not.

    Fewer passages to reorder ask for more leaves: for fewer and fewer of them, the least number of
    leaves is found by halving. What is compared is the work to be done and not the time it took,
    so that the same vectors always yield the same index.
    """
    found, best = wide.settings, wide
    target = min(config.target_recall, found.recall)
    low, high = 1, min(found.leaves, 2 * found.leaves_to_search)
    if config.leaves_to_search or not found.leaves:
        low = high = found.leaves_to_search
    reorder = found.reorder
    while True:
        index = measure(high, reorder)
        if index.settings.recall < target:
            return best
        most = high
        while low < most:
            middle = (low + most) // 2
            narrower = measure(middle, reorder)
            if narrower.settings.recall >= target:
                index, most = narrower, middle
            else:
                low = middle + 1
        best = min(best, index, key=_work)
        fewer = int(reorder / 1.25)
        if config.reorder or fewer < found.top_k:
            return best
        reorder = fewer


def _work(index: ScannIndex) -> float:
    """Of a query, in bytes read: quantised forms in a row, passages to reorder from all over."""
    chosen, vectors = index.settings, index.vectors
    share = chosen.leaves_to_search / chosen.leaves if chosen.leaves else 1.0
    quantised = share * len(vectors) * vectors.width / 4  # four bits for two dimensions
    return quantised + SCATTERED * chosen.reorder * vectors.width * vectors.dtype.itemsize


def _refuse_strangers(folder: Path, count: int) -> None:
    """ScaNN unpickles scann_docids.pkl, and reads whatever its list of assets points at."""
    for path in folder.iterdir():
        known = path.name == SETTINGS or path.suffix in {".npy", ".pb", ".pbtxt"}
        if not known or path.is_symlink() or not path.is_file():
            raise InputError(f"{path}: does not belong to an index of ours; it is not opened")
    assets = folder / ASSETS
    text = checked_file(assets, MAX_SETTINGS_BYTES).read_bytes().decode("utf-8", "replace")
    # All of the text must be such blocks: protobuf knows more ways to spell a name.
    if not re.fullmatch(rf"(\s*{_ASSET}\s*)+", text):
        raise InputError(f"{assets}: damaged; delete {folder} and build it again")
    for _, name in re.findall(_ASSET, text):
        if not (folder / name).is_file():
            raise InputError(f"{assets}: asset_path {name!r} is no file of {folder}")
        if name.endswith(".npy") and (shape := map_npy(folder / name).shape)[:1] != (count,):
            raise InputError(
                f"{folder / name}: holds {shape}, but the corpus {count} passages; delete "
                f"{folder} and build it again"
            )


def _digest(folder: Path) -> str:
    """Of all files but the arrays, which are large, and whose shape says enough."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.glob("*.pb*")):
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


_ASSET = r'assets \{\s+asset_type: ([A-Z0-9_]+)\s+asset_path: "([\w.-]+)"\s+\}'


def _reorder_type(vectors: Vectors) -> Any:
    scann = _loaded()
    small = vectors.dtype.itemsize == 2  # what was stored in two bytes is reordered in two
    return scann.ReorderType.BFLOAT16 if small else scann.ReorderType.FLOAT32


def check_installed() -> None:
    """Raises InputError where ScaNN cannot be used here."""
    if why := missing():
        raise InputError(
            f"{why}; install scann, or search exactly: train with --index.kind exact; a run that "
            "has its vectors is searched so with --index RUN/index"
        )


def _ops() -> Any:
    check_installed()
    return _loaded().scann_ops_pybind
