"""Reading files that may come from anyone, and writing them whole or not at all.

What is read is not trusted: a link may lead anywhere, a header may promise anything. What is
written is written beside its place first, and then renamed.
"""

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pydantic

from rocketjax.runtime.errors import InputError, writing

T = TypeVar("T")
MAX_SETTINGS_BYTES = 8 * 2**20  # parsed JSON can take tens of times its size in memory


def checked_file(path: Path, max_bytes: int | None = None, root: Path | None = None) -> Path:
    """`path`, once it is known to be a file that is safe to open.

    Args:
        max_bytes: its size limit; default none.
        root: the folder it belongs to; default its parent. A link must not lead out of it, except
            for the links that huggingface_hub makes in its own cache.

    Raises:
        InputError: it is missing, a device or a pipe, a link out of `root`, or too large.
    """
    try:
        status = path.stat()
        target, folder = path.resolve(), (root or path.parent).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: circular links, before Python 3.13
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise InputError(f"{path}: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file")
    # The hub's cache: snapshots/REVISION/2_Dense/config.json is a link to blobs/HASH.
    snapshots = (place for place in folder.parents if place.name == "snapshots")
    blobs = (place.parent / "blobs" for place in snapshots)
    if not target.is_relative_to(folder) and target.parent not in blobs:
        raise InputError(
            f"{path}: a link to {target}, outside its folder, is not followed; if it is yours, "
            "put a copy in its place"
        )
    if max_bytes is not None and status.st_size > max_bytes:
        raise InputError(f"{path}: has {status.st_size:,} bytes; at most {max_bytes:,} are read")
    return path


def read_json(path: Path, root: Path | None = None) -> Any:
    """Parses a JSON settings file.

    Raises:
        InputError: not a file that is safe to open (see `checked_file`), or not JSON.
    """
    try:
        return json.loads(checked_file(path, MAX_SETTINGS_BYTES, root).read_text(encoding="utf-8"))
    except InputError:  # a ValueError, too
        raise
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
        raise InputError(f"{path}: not readable as JSON: {error}") from error


def read_object(path: Path, root: Path | None = None) -> dict[str, Any]:
    """Parses a JSON settings file that must hold an object.

    Raises:
        InputError: as `read_json` does, or the file holds something else.
    """
    values = read_json(path, root)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def valid(kind: type[T], values: Any, path: Path, remedy: str) -> T:
    """`values`, parsed from the file at `path`, as an instance of `kind`.

    Args:
        kind: a type that pydantic can check.
        remedy: what to do if the file is damaged; ends the message.

    Raises:
        InputError: they do not fit `kind`; one line says where in the file.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise InputError(f"{path}: damaged: {where}: {first['msg']}; {remedy}") from error


def map_npy(path: Path) -> np.ndarray:
    """Maps a .npy file into memory; only its header is read, and compared with the file's size.

    Raises:
        InputError: no such file, a damaged one, or one whose header promises more than it holds.
    """
    checked_file(path)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a header can make numpy, Python's parser and the system fail
        raise InputError(f"{path}: damaged: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all. Raises InputError, as `new_file` does."""
    with new_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file, whole or not at all. Raises InputError, as `new_file` does."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_npy(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file, whole or not at all. Raises InputError, as `new_file` does."""
    with new_file(path) as file:
        np.save(file, array, allow_pickle=False)


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to fill, which replaces `path` when the block ends without an error.

    Raises:
        InputError: for any OSError of the block, as one about `path`: do nothing else in there.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # or the rename might reach the disk before the data
            aside.replace(path)
    finally:
        with suppress(OSError):  # its folder may be missing, too
            aside.unlink(missing_ok=True)


def ensure_parent(path: Path) -> None:
    """Makes the folder of a file to be written; call it before the work that must not be lost.

    Raises:
        InputError: the folder cannot be made.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which replaces `path` when the block ends without an error.

    Raises:
        InputError: the folder, or what the block puts into it, cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    before = path.with_name(f".{path.name}.before.{os.getpid()}")
    try:
        with writing(path):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            yield aside
            for entry in [*aside.rglob("*"), aside]:
                _sync(entry)  # or the rename might reach the disk before the data
            if path.is_dir():
                path.rename(before)  # deleted in place, it would be half a folder for a while
            aside.rename(path)
            _sync(path.parent)
            shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    """Waits until a file or a folder is on the disk.

    Not every file system can sync a folder, which is no error; that of a file must not fail.
    """
    if path.is_symlink():
        return
    with suppress(OSError) if path.is_dir() else nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_empty(folder: Path, but: str = "") -> bool:
    """Whether a folder is missing, or holds only hidden files: locks and half-written files.

    `but`: the name of a file that does not count.
    """
    return not folder.is_dir() or all(
        path.name.startswith(".") or path.name == but for path in folder.iterdir()
    )


def sweep(folder: Path) -> None:
    """Removes the half-written files of killed writers, however deep; no writer may be running."""
    for path in list(folder.rglob(".*")):
        if re.fullmatch(r"\..+\.\d+", path.name):
            remove(path)


def remove(path: Path) -> None:
    """Removes a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def cache_folder() -> Path:
    """The folder of what can be made again, and so be deleted at any time.

    ROCKETJAX_CACHE, else rocketjax in XDG_CACHE_HOME, else ~/.cache/rocketjax.
    """
    configured = os.environ.get("ROCKETJAX_CACHE")
    if configured:
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rocketjax"
