"""Files and folders that appear whole or not at all: written aside, then renamed."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from rocketjax.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Writes a text file in one stroke."""
    with _new_file(path) as file:
        file.write(text.encode())


def write_npy(path: Path, array: np.ndarray) -> None:
    """Writes an array as numpy's own file, in one stroke."""
    with _new_file(path) as file:
        np.save(file, array, allow_pickle=False)


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to fill, which takes the place of `path` once the block ends well."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before what it renames
        aside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `path` once the block ends well."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
