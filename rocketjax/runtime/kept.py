"""What takes seconds to make, kept in the cache folder for the next process.

What is kept is a text under a name that says all it depends on. Nothing depends on the cache: a
file that is missing, damaged or cannot be written means that the text is made again.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import cache_folder, checked_file, ensure_parent, new_file

_LARGEST = 128 * 2**20  # bytes of a file
_ALL = 256 * 2**20  # bytes of a kind


def kept_path(kind: str, depends_on: Sequence[object]) -> Path:
    """The file of a kept text.

    Args:
        kind: of what is kept; a folder's name.
        depends_on: everything that the text depends on, as JSON has it.
    """
    key = hashlib.blake2b(json.dumps(depends_on).encode(), digest_size=16).hexdigest()
    return cache_folder() / kind / key


def code_hash(*paths: Path) -> str:
    """A hash of source files, for texts that depend on them. Raises OSError if one is missing."""
    return hashlib.blake2b(b"".join(path.read_bytes() for path in paths)).hexdigest()


def keep(path: Path, text: str) -> None:
    """Writes the text for later processes, whole or not at all; or does not, if that fails."""
    data = text.encode()
    with suppress(InputError):  # a home that is full, or read-only
        ensure_parent(path)
        with new_file(path) as file:
            file.write(_digest(data) + b"\n" + data)
    with suppress(OSError):  # another process may remove them, too
        _remove_old(path.parent)


def kept(path: Path) -> str | None:
    """The text that `keep` wrote; None if there is none, or not the whole of it."""
    try:
        digest, _, data = checked_file(path, _LARGEST).read_bytes().partition(b"\n")
        return data.decode() if digest == _digest(data) else None
    except (OSError, ValueError):  # ValueError: an InputError, too
        return None


def _remove_old(folder: Path) -> None:
    """Removes the files that were written first, where all together are more than `_ALL`."""
    newest = sorted(((path.stat(), path) for path in folder.iterdir()), key=_written, reverse=True)
    sizes = accumulate(status.st_size for status, _ in newest)
    for (_, path), size in zip(newest, sizes, strict=True):
        if size > _ALL:
            path.unlink()


def _written(file: tuple[os.stat_result, Path]) -> int:
    return file[0].st_mtime_ns


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).hexdigest().encode()
