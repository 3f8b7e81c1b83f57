"""One at a time in a folder: a lock that ends with the process that holds it, however that ends."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rocketjax.runtime.errors import InputError, writing
from rocketjax.runtime.progress import Say

NAME = ".lock"


@contextmanager
def held(folder: Path, say: Say, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Holds a folder, made where it is missing, for as long as the block lasts.

    The system drops the lock (flock) of a process that is gone, so a lock file that a killed one
    left keeps nobody out. Where the file system has no locks, says so and goes on.

    Args:
        shared: with others who hold it as shared; not with one who holds it alone.
        wait: until nobody else holds it, for what takes moments.

    Raises:
        InputError: somebody else holds it (the message names process and host), or the folder
            cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(folder, say, shared, wait)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    try:
        yield
    finally:
        _release(file, folder / NAME)


def _locked(folder: Path, say: Say, shared: bool, wait: bool) -> IO[str]:
    path = folder / NAME
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(file, how if wait else how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "a process that just started"
            file.close()
            raise InputError(
                f"{folder}: {owner} is at work here; wait for it, stop it, or choose another folder"
            ) from error
        except OSError as error:
            say(
                f"{path}: cannot be locked ({error.strerror}); see to it that nobody else runs here"
            )
            return file
        # Who held it before may have removed the file after we opened it: then it locks nothing.
        if _is(file, path):
            return file
        file.close()


def _is(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _release(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody shares it
        path.unlink(missing_ok=True)
    except OSError:
        pass  # the others still hold it
    finally:
        file.close()
