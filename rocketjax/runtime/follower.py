"""A process other than the first of several, whose run is kept at an address.

Process 0 commits (mirror.py). The others, on other machines, have folders of their own: what they
write they upload now and then, and hand it to process 0 where all wait for each other
(processes.py); there they fetch what it has committed. What a stop left in between, uploaded or in
the folder, counts at the next start, unless others have committed since.
"""

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rocketjax.runtime import mirror
from rocketjax.runtime.cloud import Cloud, at_once
from rocketjax.runtime.commits import (
    FROM,
    fetch,
    files_of,
    kept_of,
    nothing,
    places,
    read_commit,
)
from rocketjax.runtime.files import read_json, remove, valid, write_json
from rocketjax.runtime.progress import Say, Watch, also

NOTED = ".followed.json"  # in the folder


class _Noted(NamedTuple):
    """Whose commits a folder follows, and its files that are theirs or on their way to them."""

    session: str
    files: list[str]


class Follower:
    """A folder that is kept as the last commit of an address, apart from what is new in it."""

    def __init__(self, cloud: Cloud, folder: Path, say: Say) -> None:
        """What the folder holds from before is of use where a commit still names it, or where
        nobody has committed but the process 0 that it was written beside."""
        self._cloud, self._folder, self._say = cloud, folder, say
        self._files = files_of(folder, nothing)
        commit, noted = read_commit(cloud), _read(folder / NOTED)
        self._session = noted.session
        if noted.session and noted.session == commit.session:
            for name in self._files.keys() - commit.files.keys() - set(noted.files):
                del self._files[name]  # new: to be given
        self._kept = {n: kept_of(folder / n, file.size) for n, file in self._files.items()}
        self._id = ""
        self._offered: set[str] = set()  # uploaded, and not given yet
        self._time, self._working = time.monotonic(), threading.Lock()

    def give(self) -> list[str]:
        """Uploads what was written here since, for process 0 to take; returns the names."""
        self.offer()
        with self._working:
            offered, self._offered = self._offered, set()
        return [f"{self._session}/{name}" for name in sorted(offered)]

    def offer(self) -> None:
        """Uploads what was written here since, for process 0 to take at its next start at least.

        Raises:
            InputError: not all could be uploaded.
        """
        with self._working:
            files = files_of(self._folder, nothing)
            new = [name for name, file in files.items() if self._files.get(name) != file]
            kept = {name: kept_of(self._folder / name, files[name].size) for name in new}

            def put(name: str) -> None:
                self._cloud.put(f"{FROM}/{self._session}/{name}", self._folder / name, *kept[name])

            with at_once() as pool:
                list(pool.map(put, new))
            self._kept |= kept
            self._files |= {name: files[name] for name in new}
            self._offered.update(new)
            if new:
                self._note(self._kept)

    def watched(self, watch: Watch) -> Watch:
        """A `Watch` that also offers, in the background, now and then as work gets done."""

        def advanced() -> None:
            if time.monotonic() - self._time > mirror.EVERY and not self._working.locked():
                self._time = time.monotonic()
                threading.Thread(target=self.try_to_offer, daemon=True).start()

        return also(watch, advanced)

    def try_to_offer(self) -> None:
        """Offers; what went wrong is said only."""
        try:
            self.offer()
        except Exception as error:  # whatever a library raises: it is no reason to stop the work
            self._say(f"not uploaded: {error}; what is new stays in {self._folder}")

    def follow(self) -> None:
        """Makes the folder what process 0 has committed; what was not given yet stays."""
        with self._working:
            commit = read_commit(self._cloud)
            if commit.id == self._id:
                return
            for name in self._kept.keys() - commit.files.keys() - self._offered:
                remove(self._folder / name)
                del self._kept[name], self._files[name]
            self._session = commit.session
            self._note([*commit.files, *self._offered])
            where = places(self._cloud, commit)
            new = {n: where[n] for n, kept in commit.files.items() if self._kept.get(n) != kept}
            fetch(self._cloud, self._folder, commit, new)
            files = files_of(self._folder, nothing)
            self._kept |= {name: commit.files[name] for name in new}
            self._files |= {name: files[name] for name in new}
            self._id = commit.id

    def _note(self, names: Iterable[str]) -> None:
        noted = _Noted(self._session, sorted(names))
        write_json(self._folder / NOTED, noted._asdict())


def _read(path: Path) -> _Noted:
    if not path.is_file():
        return _Noted("", [])
    return valid(_Noted, read_json(path), path, "delete it")
