"""What an address of Google Cloud Storage holds as a whole: the files that .commit.json names.

Objects change one by one, so a folder of them is never sure to be whole. A commit is: .commit.json
says the size and hash of every file. Files are uploaded to .aside/HASH, then the commit is written,
and only then are they copied to their places, and what no commit names any more is removed. So a
kill at any point leaves a commit, the last or the one before it.

    gs://BUCKET/PATH/.commit.json   written when all it names is there
                     .aside/HASH    files on their way to their places
                     .lock          who is at work (lease.py)
                     log.jsonl ...  the files, by their names
"""

import json
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

from rocketjax.runtime.cloud import Cloud, at_once, has_hash, md5_of
from rocketjax.runtime.errors import InputError, writing
from rocketjax.runtime.files import remove
from rocketjax.runtime.progress import Say

COMMIT = ".commit.json"
ASIDE = ".aside"
FROM = ".from"  # files that processes other than the first have written, on their way to it
# They are below the session of the commit that those have followed: .from/SESSION/FILE.
_TRIES = 9  # to see a folder between two changes

Skip: TypeAlias = Callable[[Path], bool]  # whether a folder is left out


def nothing(_: Path) -> bool:
    """A `Skip` that leaves nothing out."""
    return False


class File(NamedTuple):
    """A file as it is here. Another inode, size or time: other bytes; a log only grows."""

    size: int
    inode: int
    time: int  # of its last change, in nanoseconds


class Kept(NamedTuple):
    """A file as a commit names it."""

    size: int
    md5: str  # as `Object.md5`: of what was copied there by other means, it may be crc32c


class Commit(NamedTuple):
    """All files of an address at one moment."""

    id: str  # "": the objects that are there, which no commit names
    generation: int  # of .commit.json; 0: there is none
    files: dict[str, Kept]
    gone: list[str]  # files of the commit before which this one does not name

    @property
    def session(self) -> str:
        """The start of process 0 that made it: what its id has before a dot."""
        return self.id.partition(".")[0]

    def data(self) -> bytes:
        """As .commit.json holds it."""
        return json.dumps({"id": self.id, "files": self.files, "gone": self.gone}).encode()


def read_commit(cloud: Cloud) -> Commit:
    """The last commit. Of what was copied there by other means: all that is there.

    Raises:
        InputError: .commit.json is damaged, or a name in it would lead out of a folder.
    """
    there = cloud.read(COMMIT)
    if there is None:
        found = cloud.objects().items()
        files = {name: Kept(o.size, o.md5) for name, o in found if not _is_hidden(name)}
        return Commit("", 0, files, [])
    try:
        values = json.loads(there[0])
        files = {str(name): Kept(int(n), str(md5)) for name, (n, md5) in values["files"].items()}
        commit = Commit(str(values["id"]), there[1], files, list(map(str, values["gone"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{cloud.address}/{COMMIT}: damaged ({error}); delete it, and what is there counts"
        ) from error
    cloud.check_names([*commit.files, *commit.gone])
    return commit


def places(cloud: Cloud, commit: Commit) -> dict[str, str]:
    """Where each file of a commit lies: in its place, or aside.

    Raises:
        InputError: one is missing, or was overwritten.
    """
    objects, where = cloud.objects(), {}
    for name, kept in commit.files.items():
        found, aside = objects.get(name), f"{ASIDE}/{kept.md5}"
        if found and (found.size, found.md5) == kept:
            where[name] = name
        elif aside in objects:
            where[name] = aside
        else:
            raise InputError(f"{cloud.address}/{name}: gone, or not what {COMMIT} says")
    return where


def bring(cloud: Cloud, folder: Path, commit: Commit, say: Say) -> None:
    """Makes a folder what a commit names; fetches what it does not hold yet. Locks stay.

    Raises:
        InputError: a file is not there any more, or does not arrive as it was named.
    """
    where = places(cloud, commit)
    for name, file in files_of(folder, nothing).items():
        kept = commit.files.get(name)
        if kept and is_kept(folder / name, file.size, kept):
            del where[name]
        else:
            remove(folder / name)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            with suppress(OSError):  # it holds something
                path.rmdir()
    if where:
        size = sum(commit.files[name].size for name in where) / 1e6
        say(f"{cloud.address}: fetching {len(where):,} files, {size:,.2f} MB, into {folder}")
        fetch(cloud, folder, commit, where)


def fetch(cloud: Cloud, folder: Path, commit: Commit, where: dict[str, str]) -> None:
    """Fetches files of a commit, each whole or not at all; `where`: by name, where each lies.

    Raises:
        InputError: one is gone, or does not arrive as it was named.
    """

    def get(name: str) -> None:
        path, kept = folder / name, commit.files[name]
        aside = folder / f".fetched.{threading.get_ident()}.{os.getpid()}"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            cloud.get(where[name], aside)
            if not is_kept(aside, aside.stat().st_size, kept):
                raise InputError(f"{cloud.address}/{name}: changed as it was fetched; try again")
            aside.replace(path)

    with at_once() as pool:
        list(pool.map(get, where))


def kept_of(path: Path, size: int) -> Kept:
    """A file's first `size` bytes, as a commit names them."""
    return Kept(size, md5_of(path, size))


def is_kept(path: Path, size: int, kept: Kept) -> bool:
    """Whether a file's first `size` bytes are what a commit names."""
    return size == kept.size and has_hash(path, size, kept.md5)


def files_of(folder: Path, skip: Skip) -> dict[str, File]:
    """The files below a folder, by their paths from there; not what is hidden: locks, marks."""
    found: dict[str, File] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not _is_hidden(f) and not skip(Path(place, f))]
        for path in (Path(place, name) for name in names if not _is_hidden(name)):
            with suppress(FileNotFoundError):  # removed at this moment
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    file = File(status.st_size, status.st_ino, status.st_mtime_ns)
                    found[path.relative_to(folder).as_posix()] = file
    return found


def link_files(folder: Path, aside: Path, skip: Skip) -> dict[str, File]:
    """Links the files of one moment into another folder, where what is done next leaves them.

    The folder is looked through twice, and again if a file has come, gone or been replaced in
    between: else one might be seen, but not another which was there before it. Files that only
    grow, logs, are taken at the length that they had.

    Raises:
        InputError: it never keeps still, or the file system has no hard links.
    """
    for _ in range(_TRIES):
        remove(aside)
        files = files_of(folder, skip)
        with writing(aside, "ROCKETJAX_CACHE takes another file system"):
            linked = all(_link(folder / name, aside / name) for name in files)
        again = files_of(folder, skip)
        if linked and {n: f.inode for n, f in again.items()} == {
            n: f.inode for n, f in files.items()
        }:
            return files
    raise InputError(f"{folder}: its files change all the time")


def _link(path: Path, link: Path) -> bool:
    """Whether there was a file to link."""
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.hardlink_to(path)
    except FileNotFoundError:
        return False
    return True


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
