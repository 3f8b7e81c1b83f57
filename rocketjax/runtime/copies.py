"""What lies in Google Cloud Storage, read: fetched once into this machine's cache."""

import os
from pathlib import Path

from rocketjax.runtime.cloud import Cloud, is_address, own_folder
from rocketjax.runtime.commits import Commit, Kept, bring, is_kept, read_commit
from rocketjax.runtime.errors import InputError, writing
from rocketjax.runtime.files import new_folder, read_json, remove, write_json
from rocketjax.runtime.lock import held
from rocketjax.runtime.progress import Say, logged

# Folders of a run that nothing but the run itself reads.
_OF_THE_RUN = ("checkpoints", "rounds", "start", "tensorboard", "warmup")
_TRIES = 3  # to read a run that commits meanwhile


def local(name: str | Path, say: Say = logged) -> Path:
    """A file or folder by its name; of an address, this machine's copy.

    The copy is fetched at the first use and where the address has changed since, whole or not at
    all. Of a run, its last commit, without what only the run itself reads.

    Args:
        say: takes a line with the number of bytes; default: logged as a warning.

    Raises:
        InputError: nothing is there, or it cannot be fetched.
    """
    if not is_address(name):
        return Path(name).expanduser()
    path = own_folder(name, "copies")
    cloud = Cloud(name)
    with held(path.parent, say, wait=True):  # another process may be fetching it
        for last in (False,) * (_TRIES - 1) + (True,):
            try:
                _update(cloud, path, say)
                break
            except InputError:
                if last:
                    raise
    return path


def _update(cloud: Cloud, path: Path, say: Say) -> None:
    commit, noted = _to_read(read_commit(cloud)), path.parent / "fetched.json"
    if not commit.files:
        raise InputError(f"{cloud.address}: nothing is there")
    files = {name: list(kept) for name, kept in commit.files.items()}
    if path.exists() and noted.is_file() and read_json(noted) == files:
        return
    remove(noted)
    if "" in commit.files:
        _fetch_file(cloud, path, commit.files[""], say)
    else:
        with new_folder(path) as aside:
            bring(cloud, aside, commit, say)
    write_json(noted, files)


def _to_read(commit: Commit) -> Commit:
    if not commit.id:
        return commit
    files = {n: k for n, k in commit.files.items() if n.partition("/")[0] not in _OF_THE_RUN}
    return commit._replace(files=files)


def _fetch_file(cloud: Cloud, path: Path, kept: Kept, say: Say) -> None:
    say(f"{cloud.address}: fetching {kept.size / 1e6:,.2f} MB into {path}")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        cloud.get("", aside)
        if not is_kept(aside, aside.stat().st_size, kept):
            raise InputError(f"{cloud.address}: changed as it was fetched; try again")
        remove(path)
        aside.replace(path)
