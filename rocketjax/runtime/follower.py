"""A process other than the first of several, whose run is kept at an address.

Process 0 commits (mirror.py). The others, on other machines, have folders of their own: what they
write they hand to process 0 where all wait for each other (processes.py), and there they fetch what
it has committed.
"""

from pathlib import Path

from rocketjax.runtime.cloud import Cloud, at_once
from rocketjax.runtime.commits import (
    FROM,
    File,
    Kept,
    fetch,
    files_of,
    kept_of,
    nothing,
    places,
    read_commit,
)
from rocketjax.runtime.files import remove


class Follower:
    """A folder that is kept as the last commit of an address, apart from what is new in it."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        """What the folder holds from before is of use where a commit still names it."""
        self._cloud, self._folder = cloud, folder
        self._files = files_of(folder, nothing)
        self._kept = {name: kept_of(folder / name, f.size) for name, f in self._files.items()}
        self._id = ""

    def give(self) -> list[str]:
        """Uploads what was written here since, for process 0 to take; returns the names."""
        files = files_of(self._folder, nothing)
        new = [name for name, file in files.items() if self._files.get(name) != file]
        kept = {name: kept_of(self._folder / name, files[name].size) for name in new}

        def put(name: str) -> None:
            self._cloud.put(f"{FROM}/{name}", self._folder / name, *kept[name])

        with at_once() as pool:
            list(pool.map(put, new))
        self._note(kept, files)
        return new

    def follow(self) -> None:
        """Makes the folder what process 0 has committed; what was not given yet stays."""
        commit = read_commit(self._cloud)
        if commit.id == self._id:
            return
        for name in self._kept.keys() - commit.files.keys():
            remove(self._folder / name)
            del self._kept[name], self._files[name]
        where = places(self._cloud, commit)
        new = {n: where[n] for n, kept in commit.files.items() if self._kept.get(n) != kept}
        fetch(self._cloud, self._folder, commit, new)
        files = files_of(self._folder, nothing)
        self._note({name: commit.files[name] for name in new}, files)
        self._id = commit.id

    def _note(self, kept: dict[str, Kept], files: dict[str, File]) -> None:
        self._kept |= kept
        self._files |= {name: files[name] for name in kept}
