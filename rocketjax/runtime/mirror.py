"""A folder of this machine that is kept at an address of Google Cloud Storage.

Work is done in the folder. `commit` notes its state, which is what a kill at that moment would
leave, and a thread uploads what is new and makes a commit of it (commits.py). Meanwhile the work
goes on; of the states that come while one is uploaded, only the newest is.
"""

import itertools
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rocketjax.runtime.cloud import Cloud, at_once
from rocketjax.runtime.commits import (
    ASIDE,
    COMMIT,
    FROM,
    Commit,
    File,
    Kept,
    Skip,
    bring,
    files_of,
    kept_of,
    link_files,
    places,
    read_commit,
)
from rocketjax.runtime.errors import InputError, writing
from rocketjax.runtime.files import read_json, remove, write_json
from rocketjax.runtime.lease import Lease, leased
from rocketjax.runtime.progress import Say, Watch, also

EVERY = 60.0  # seconds between two commits in the middle of work, at least
STATES = "states"  # beside the folder
NOTED = ".commits.json"  # in the folder: which commit it was made from, and goes with it


class State(NamedTuple):
    """The files of a moment, linked into a folder of their own."""

    folder: Path
    files: dict[str, File]


@contextmanager
def mirrored(address: str | Path, folder: Path, say: Say, skip: Skip) -> Iterator["Mirror"]:
    """Keeps a folder at an address while the block runs; hold the folder's own lock meanwhile.

    At first the folder is made what the address holds, unless it is newer: made from that here, by
    a process that was killed. At the end, with an error too, all is committed.

    Args:
        skip: which folders are left out.

    Raises:
        InputError: another process is at work there; or, at the end of a block that had none
            itself, not all could be uploaded.
    """
    cloud = Cloud(address)
    with leased(cloud, folder, say) as lease:
        mirror = Mirror(cloud, folder, lease, say, skip)
        try:
            yield mirror
        except BaseException:
            try:
                mirror.flush()
            except InputError as error:
                say(str(error))
            raise
        else:
            mirror.flush()
        finally:
            mirror.close()


class Mirror:
    """A folder and the address that it is kept at, by the one process that holds its lock."""

    def __init__(self, cloud: Cloud, folder: Path, lease: Lease, say: Say, skip: Skip) -> None:
        """Makes the folder what the address holds, unless it is newer."""
        self._cloud, self._folder, self._lease = cloud, folder, lease
        self._say, self._skip = say, skip
        self._last = _taken_over(cloud)
        self._session, self._followed = uuid.uuid4().hex, False
        self._known: dict[str, File] = {}  # as they were when the last commit was made of them
        self._tried: dict[str, dict[str, File]] = {}  # likewise, of commits whose fate is unknown
        self._unplaced: set[str] = set()  # files of the last commit that are not in their places
        self._aside: set[str] = set()  # objects that are not needed once those are
        self._open()
        self._numbers = itertools.count()
        self._waiting: State | None = None  # the newest, while an earlier one is uploaded
        self._failure: InputError | None = None
        self._changed, self._busy, self._ending = threading.Condition(), False, False
        self._committed = time.monotonic()
        self._thread = threading.Thread(target=self._upload_all, daemon=True)
        self._thread.start()

    def commit(self) -> None:
        """Notes the folder's state, to be uploaded in the background. Any thread may call it.

        Raises:
            InputError: another process has taken over, or the folder was deleted.
        """
        self._lease.check()
        with self._changed:
            self._committed = time.monotonic()
            aside = self._folder.parent / STATES / str(next(self._numbers))
            state = State(aside, link_files(self._folder, aside, self._skip))
            self._check_there(state)
            if self._waiting:
                remove(self._waiting.folder)
            self._waiting = state
            self._changed.notify_all()

    def watched(self, watch: Watch) -> Watch:
        """A `Watch` that also commits now and then as work gets done."""

        def advanced() -> None:
            if time.monotonic() - self._committed > EVERY:
                self.commit()

        return also(watch, advanced)

    def flush(self) -> None:
        """Commits, and waits until that is done.

        Raises:
            InputError: it could not be uploaded, another process has taken over, or the folder was
                deleted.
        """
        self.commit()
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._busy)
            if self._failure:
                raise InputError(
                    f"{self._failure}; what is not there yet is in {self._folder}, from where the "
                    "same command on this machine resumes"
                ) from self._failure

    def take(self, names: list[str]) -> None:
        """Takes files of other processes (follower.py) into the folder, and commits them.

        Args:
            names: of objects below FROM.
        """
        self._followed = True
        given = [f"{FROM}/{name}" for name in names]
        self._get(given)
        self.flush()
        with at_once() as pool:
            list(pool.map(self._cloud.delete, given))

    def _get(self, given: Iterable[str]) -> None:
        def get(given: str) -> None:
            path = self._folder / _given_file(given)
            aside = self._folder / f".taken.{threading.get_ident()}"
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._cloud.get(given, aside)
                aside.replace(path)

        with at_once() as pool:
            list(pool.map(get, given))

    def close(self) -> None:
        """Ends the thread, once it has uploaded what waits."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()
        remove(self._folder.parent / STATES)

    def _open(self) -> None:
        noted = self._folder / NOTED
        ids = read_json(noted) if noted.is_file() else []
        if not files_of(self._folder, self._skip):
            ids = []  # emptied, not newer: a commit of it would delete all that is there
        if not isinstance(ids, list) or self._last.id not in ids:
            remove(noted)  # others have been at work there since
            bring(self._cloud, self._folder, self._last, self._say)
            write_json(noted, [self._last.id])
        where = places(self._cloud, self._last)
        self._unplaced = {name for name in where if where[name] != name}
        left = {n for n in self._cloud.objects() if n.partition("/")[0] in (ASIDE, FROM)}
        # Of a stop before others could hand their files over. Who has committed since, knew nothing
        # of them.
        given = {n for n in left if n.startswith(f"{FROM}/{self._last.session}/")}
        given = {n for n in given if _given_file(n) not in self._last.files}
        self._aside = left - given
        self._tidy()
        self._get(given)
        self._aside = given  # until a commit has the files

    def _upload_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ending)
                state, self._waiting = self._waiting, None
                if state is None:
                    return
                self._busy = True
            failure = self._try_to_upload(state)
            remove(state.folder)
            with self._changed:
                self._busy, self._failure = False, failure
                self._changed.notify_all()

    def _try_to_upload(self, state: State) -> InputError | None:
        """What went wrong: no reason to stop the work, whose next commit may get through."""
        try:
            self._upload(state)
        except InputError as error:
            self._say(f"not uploaded: {error}; the next commit tries again")
            return error
        except Exception as error:  # whatever a library raises: this thread must not end
            self._say(f"not uploaded: {type(error).__name__}: {error}")
            return InputError(f"{self._cloud.address}: {type(error).__name__}: {error}")
        return None

    def _upload(self, state: State) -> None:
        self._find_out()
        before, files = self._last.files, {}
        for name, file in state.files.items():
            same = self._known.get(name) == file
            files[name] = before[name] if same else kept_of(state.folder / name, file.size)
        # Who follows is to know whose commits are next.
        first = self._followed and self._last.session != self._session
        if files != before or first or self._tried:  # one that still arrives must not count
            new = [name for name, kept in files.items() if before.get(name) != kept]
            paths = {_aside(files[name]): name for name in new}  # equal files once
            self._aside |= paths.keys()

            def put(to: str) -> None:
                name = paths[to]
                self._cloud.put(to, state.folder / name, *files[name])

            with at_once() as pool:
                list(pool.map(put, paths))
            gone = sorted({*before, *self._last.gone} - files.keys())
            commit = Commit(f"{self._session}.{uuid.uuid4().hex}", 0, files, gone)
            self._tried[commit.id] = state.files
            self._write(commit)
            self._unplaced = {*self._unplaced, *new} & files.keys()
        self._known = state.files
        self._tidy()  # what an earlier one has failed to do, too

    def _find_out(self) -> None:
        """Takes a commit for the last one if it was written and only the answer was lost."""
        if not self._tried:
            return
        there, before = read_commit(self._cloud), self._last.files
        if there.id in self._tried:
            new = {name for name, kept in there.files.items() if before.get(name) != kept}
            self._unplaced = (self._unplaced | new) & there.files.keys()
            self._last, self._known = there, self._tried[there.id]

    def _write(self, commit: Commit) -> None:
        self._note([self._last.id, *self._tried])  # a kill may come before or after
        generation = self._cloud.write(COMMIT, commit.data(), self._last.generation)
        if generation is None:
            raise InputError(f"{self._cloud.address}: another process has committed here since")
        self._last = commit._replace(generation=generation)
        self._tried.clear()
        self._note([commit.id])

    def _note(self, ids: list[str]) -> None:
        self._check_there()
        write_json(self._folder / NOTED, ids)

    def _check_there(self, state: State | None = None) -> None:
        """Raises InputError if the folder was deleted, and perhaps made anew, or a state is empty.

        What is left of it is no state of the work, and a commit of that would delete the rest.
        """
        emptied = state is not None and not state.files and self._last.files
        if emptied or not (self._folder / NOTED).is_file():
            raise InputError(
                f"{self._folder}: was deleted or emptied meanwhile; the last commit is at "
                f"{self._cloud.address}, from where the same command resumes"
            )

    def _tidy(self) -> None:
        """Copies files to their places, and removes what is not needed any more."""
        self._lease.check()
        new = sorted(self._unplaced)
        with at_once() as pool:
            list(pool.map(self._cloud.copy, (_aside(self._last.files[n]) for n in new), new))
            self._unplaced.clear()  # before what lies aside is removed
            list(pool.map(self._cloud.delete, [*self._aside, *self._last.gone]))
        self._aside.clear()
        self._last = self._last._replace(gone=[])


def _taken_over(cloud: Cloud) -> Commit:
    """The last commit, written once more: who held the lock before cannot commit any more."""
    while True:
        last = read_commit(cloud)
        last = last._replace(id=last.id or uuid.uuid4().hex)
        generation = cloud.write(COMMIT, last.data(), last.generation)
        if generation is not None:
            return last._replace(generation=generation)


def _given_file(given: str) -> str:
    """The file that an object .from/SESSION/FILE is to be."""
    return given.split("/", 2)[2]


def _aside(kept: Kept) -> str:
    return f"{ASIDE}/{kept.md5}"
