"""Approximate top-k by dot product with ScaNN, on the CPU: its only importer."""

import dataclasses
import hashlib
import importlib.util
import json
import re
import time
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import pydantic

from rocketjax.config import IndexConfig
from rocketjax.errors import InputError
from rocketjax.files import MOST, checked_file, map_npy, new_folder
from rocketjax.progress import Say
from rocketjax.retrieval.exact import ExactIndex
from rocketjax.retrieval.index import check_search
from rocketjax.retrieval.vectors import Manifest, Vectors

SETTINGS = "index.json"
ASSETS = "scann_assets.pbtxt"
BRUTE_FORCE = 20_000  # up to so many passages ScaNN's authors compare with all of them,
NO_TREE = 100_000  # up to so many with all their quantised forms


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


class ScannIndex:
    """A built index. `search` follows `Index.search`; safe to share between threads."""

    def __init__(self, vectors: Vectors, searcher: Any, settings: Settings) -> None:
        """Use `build_scann` or `open_scann`."""
        self.vectors = vectors
        self.settings = settings
        self._searcher = searcher

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
        many = len(queries) > 1
        run = self._searcher.search_batched_parallel if many else self._searcher.search_batched
        rows, scores = run(
            np.ascontiguousarray(queries, np.float32),
            final_num_neighbors=top_k,
            pre_reorder_num_neighbors=reorder if self.settings.reorder else None,
            leaves_to_search=leaves or None,
        )
        found = ~np.isnan(scores)  # ScaNN fills up with NaN where it finds fewer
        rows = np.where(found, rows.astype(np.int64), -1)
        return rows, np.where(found, scores, -np.inf).astype(np.float32)


def installed() -> bool:
    """Whether the package is there (its wheels are for Linux)."""
    return importlib.util.find_spec("scann") is not None


def build_scann(
    vectors: Vectors, config: IndexConfig, queries: np.ndarray, top_k: int, say: Say
) -> ScannIndex:
    """Builds an index and saves it in the vectors' folder, whole or not at all.

    Parameters follow its authors' guidance for the corpus size. Then the search is widened until
    `config.target_recall` of the exact `top_k` is found, on average over `queries` [S, D]; what the
    config sets itself is left as it is.
    """
    ops = _ops()
    started = time.monotonic()
    count = len(vectors)
    leaves = config.leaves or (0 if count < NO_TREE else round(count**0.5))
    builder = ops.builder(vectors.rows(0, count).astype(np.float32), top_k, "dot_product")
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
    built = time.monotonic() - started
    settings = Settings(
        leaves=leaves,
        leaves_to_search=config.leaves_to_search or -(-leaves // 20),
        reorder=0 if plain else (config.reorder or 2 * top_k),
        top_k=top_k,
        recall=0.0,
        vectors=vectors.manifest,
    )
    index = _widened(ScannIndex(vectors, searcher, settings), config, queries)
    chosen = index.settings
    say(
        f"ScaNN: {count:,} passages in {built:.1f} s, "
        + (f"{chosen.leaves_to_search} of {leaves} leaves, " if leaves else "")
        + ("brute force, " if plain else f"{chosen.reorder} reordered, ")
        + f"recall@{top_k} {chosen.recall:.4f} of exact search on {len(queries)} queries"
    )
    with new_folder(vectors.folder / "scann") as aside:
        searcher.serialize(str(aside), relative_path=True)
        chosen = dataclasses.replace(chosen, digest=_digest(aside))
        values = json.dumps(dataclasses.asdict(chosen), indent=2)  # pyright: ignore
        (aside / SETTINGS).write_text(values + "\n", encoding="utf-8")
    return index


def open_scann(vectors: Vectors) -> ScannIndex:
    """Loads what `build_scann` saved beside the vectors.

    Raises:
        InputError: no index there, one of other vectors, or files that do not belong to one.
    """
    folder = vectors.folder / "scann"
    path = folder / SETTINGS
    try:
        data = checked_file(path, MOST).read_bytes()
        settings = pydantic.TypeAdapter(Settings).validate_json(data)
    except ValueError as error:  # pydantic's and our own are ValueErrors
        raise InputError(f"{path}: damaged: {error}; delete {folder} and build it anew") from error
    if settings.vectors != vectors.manifest:
        old, new = settings.vectors, vectors.manifest
        raise InputError(
            f"{folder}: an index of {old.collection} by {old.model} (hashes {old.collection_hash}, "
            f"{old.model_hash}), but the vectors are of {new.collection} by {new.model} (hashes "
            f"{new.collection_hash}, {new.model_hash}); delete it and build it anew"
        )
    _refuse_strangers(folder, len(vectors))
    if settings.digest != _digest(folder):
        raise InputError(f"{folder}: damaged: not as it was built; delete it and build it anew")
    try:
        return ScannIndex(vectors, _ops().load_searcher(str(folder)), settings)
    except InputError:  # ScaNN is not installed
        raise
    except Exception as error:  # whatever its C++ makes of a damaged file
        raise InputError(f"{folder}: damaged: {error}; delete it and build it anew") from error


def _widened(index: ScannIndex, config: IndexConfig, queries: np.ndarray) -> ScannIndex:
    """Doubles what is searched until the target recall is met, or all is searched."""
    count = len(index.vectors)
    top_k = index.settings.top_k
    exact, _ = ExactIndex(index.vectors).rows(queries, top_k)
    while True:
        settings = index.settings
        found, _ = index.rows(queries, top_k)
        shares = [len(np.intersect1d(a, b)) / top_k for a, b in zip(found, exact, strict=True)]
        recall = float(np.mean(shares)) if shares else 1.0
        leaves, reorder = settings.leaves_to_search, settings.reorder
        if not config.leaves_to_search:
            leaves = min(settings.leaves, 2 * leaves)
        if not config.reorder:
            reorder = min(count, 2 * reorder)
        met = recall >= config.target_recall
        if met or (leaves, reorder) == (settings.leaves_to_search, settings.reorder):
            settings = dataclasses.replace(settings, recall=round(recall, 6))
            return ScannIndex(index.vectors, index._searcher, settings)
        settings = dataclasses.replace(settings, leaves_to_search=leaves, reorder=reorder)
        index = ScannIndex(index.vectors, index._searcher, settings)


def _refuse_strangers(folder: Path, count: int) -> None:
    """ScaNN unpickles scann_docids.pkl, and reads whatever its list of assets points at."""
    for path in folder.iterdir():
        known = path.name == SETTINGS or path.suffix in {".npy", ".pb", ".pbtxt"}
        if not known or path.is_symlink() or not path.is_file():
            raise InputError(f"{path}: does not belong to an index of ours; it is not opened")
    assets = folder / ASSETS
    text = checked_file(assets, MOST).read_bytes().decode("utf-8", "replace")
    # All of the text must be such blocks: protobuf knows more ways to spell a name.
    if not re.fullmatch(rf"(\s*{_ASSET}\s*)+", text):
        raise InputError(f"{assets}: damaged; delete {folder} and build it anew")
    for _, name in re.findall(_ASSET, text):
        if not (folder / name).is_file():
            raise InputError(f"{assets}: asset_path {name!r} is no file of {folder}")
        if name.endswith(".npy") and (shape := map_npy(folder / name).shape)[:1] != (count,):
            raise InputError(
                f"{folder / name}: holds {shape}, but the corpus {count} passages; delete "
                f"{folder} and build it anew"
            )


def _digest(folder: Path) -> str:
    """Of all files but the arrays, which are large, and whose shape says enough."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.glob("*.pb*")):
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


_ASSET = r'assets \{\s+asset_type: ([A-Z0-9_]+)\s+asset_path: "([\w.-]+)"\s+\}'


def _reorder_type(vectors: Vectors) -> Any:
    import scann

    small = vectors.dtype.itemsize == 2  # what was stored in two bytes is reordered in two
    return scann.ReorderType.BFLOAT16 if small else scann.ReorderType.FLOAT32


def _ops() -> Any:
    if not installed():
        raise InputError(
            "ScaNN is not installed (its wheels are for Linux on x86); pip install scann, or take "
            "--index.kind exact"
        )
    from scann import scann_ops_pybind

    return scann_ops_pybind
