"""Files: written aside and renamed, so that they appear whole or not at all; read with mistrust.

What is read may come from a stranger: a link may lead anywhere, a header may promise anything.
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


MOST = 8 * 2**20  # bytes of a settings file; Python makes some tens of them of one of JSON


def checked_file(path: Path, most: int | None = None, root: Path | None = None) -> Path:
    """`path`, if it is a file that may be opened.

    Args:
        most: bytes it may have.
        root: the folder it belongs to; default the one it is in. A link must not lead out of it,
            but for what huggingface_hub links in its cache.

    Raises:
        InputError: it is none: missing, a device or a pipe, a link out of `root`, or too large.
    """
    try:
        status = path.stat()
        target, home = path.resolve(), (root or path.parent).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise InputError(f"{path}: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file")
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not target.is_relative_to(home) and target.parent != blobs:
        raise InputError(
            f"{path}: a link to {target}, outside of its folder, is not followed; if it is yours, "
            "put a copy in its place"
        )
    if most is not None and status.st_size > most:
        raise InputError(f"{path}: has {status.st_size:,} bytes; at most {most:,} are read")
    return path


def read_json(path: Path, root: Path | None = None) -> Any:
    """What a settings file of JSON says. Raises InputError, as `checked_file` does."""
    try:
        return json.loads(checked_file(path, MOST, root).read_text(encoding="utf-8"))
    except InputError:  # which is a ValueError, too
        raise
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
        raise InputError(f"{path}: not readable as JSON: {error}") from error


def read_object(path: Path, root: Path | None = None) -> dict[str, Any]:
    """The same where it must be a JSON object. Raises InputError, as `read_json` does."""
    values = read_json(path, root)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def valid(kind: type[T], values: Any, path: Path, remedy: str) -> T:
    """What was read of a file's JSON, as what it should be.

    Args:
        kind: a type that pydantic can check.
        remedy: what to do with a damaged file.

    Raises:
        InputError: it is no such thing; one line says where in the file.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise InputError(f"{path}: damaged: {where}: {first['msg']}; {remedy}") from error


def map_npy(path: Path) -> np.ndarray:
    """Maps a numpy file: its header is held against its length, and nothing else is read.

    Raises:
        InputError: no such file, a damaged one, or one that promises more than it holds.
    """
    checked_file(path)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # whatever numpy, Python's parser and the system say of a header
        raise InputError(f"{path}: damaged: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file in one stroke."""
    with new_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, values: Any) -> None:
    """Writes what JSON can hold, in one stroke."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_npy(path: Path, array: np.ndarray) -> None:
    """Writes an array as numpy's own file, in one stroke."""
    with new_file(path) as file:
        np.save(file, array, allow_pickle=False)


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to fill, which takes the place of `path` once the block ends well.

    What the system refuses in the block is told as the file's: little else belongs there.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # a rename may reach the disk before what it renames
            aside.replace(path)
    finally:
        with suppress(OSError):  # where it could not be made
            aside.unlink(missing_ok=True)


def make_home(path: Path) -> None:
    """Makes the folder that a file is to be written to, before there is anything to lose.

    Raises:
        InputError: it cannot be made.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `path` once the block ends well.

    Raises:
        InputError: it, or what the block puts into it, cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    before = path.with_name(f".{path.name}.before.{os.getpid()}")
    try:
        with writing(path):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            yield aside
            for made in [*aside.rglob("*"), aside]:
                _settle(made)  # a rename may reach the disk before what it renames
            if path.is_dir():
                path.rename(before)  # deleted in place, it would be half a folder for a while
            aside.rename(path)
            _settle(path.parent)
            shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _settle(path: Path) -> None:
    """On the disk, and not in the system's memory alone. Not every file system can say so of a
    folder; that a file could not be written is an error."""
    if path.is_symlink():
        return
    with suppress(OSError) if path.is_dir() else nullcontext():
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def is_empty(folder: Path) -> bool:
    """Whether a folder is missing or holds nothing but hidden files: locks, and what was aside."""
    return not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir())


def sweep(folder: Path) -> None:
    """Removes what writers that were killed left aside, however deep; for when none is at work."""
    for path in list(folder.rglob(".*")):
        if re.fullmatch(r"\..+\.\d+", path.name):
            remove(path)


def remove(path: Path) -> None:
    """Removes a file or a folder; what is not there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def cache_folder() -> Path:
    """What may be deleted at any time: ~/.cache/rocketjax, or where the environment says.

    That is ROCKETJAX_CACHE, or the folder rocketjax in XDG_CACHE_HOME.
    """
    own = os.environ.get("ROCKETJAX_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rocketjax"
