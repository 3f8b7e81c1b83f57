"""Locks a folder, so that only one command works in it; the lock ends with its process."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from rocketjax.runtime.errors import InputError, writing
from rocketjax.runtime.processes import is_main
from rocketjax.runtime.progress import Say

NAME = ".lock"


@contextmanager
def held(folder: Path, say: Say, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Holds the lock of a folder while its block runs; makes the folder if it is missing.

    The system drops the lock (flock) of a process that has ended, so the lock file of a killed one
    keeps nobody out. If the file system has no locks, says so and continues without.

    Args:
        shared: others may hold it too, if they ask for it as shared.
        wait: waits for the lock, which suits work of a few moments; default an error at once.

    Raises:
        InputError: another process holds it (the message names that process and its host), or the
            folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(folder, say, shared, wait)
    try:
        with writing(folder):
            file.truncate(0)
            # Not through the file's buffer: closing would try once more what a full disk refused.
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        _release(file, folder / NAME)


@contextmanager
def held_by_main(folder: Path, say: Say, shared: bool = False) -> Iterator[None]:
    """`held`, by process 0 on behalf of all processes of a run; the others hold nothing."""
    with held(folder, say, shared) if is_main() else nullcontext():
        yield


def _locked(folder: Path, say: Say, shared: bool, wait: bool) -> IO[str]:
    path = folder / NAME
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(file, mode if wait else mode | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "a process that just started"
            file.close()
            raise InputError(
                f"{folder}: {owner} is at work here; wait for it, stop it, or choose another folder"
            ) from error
        except OSError as error:
            say(f"{path}: cannot be locked ({error.strerror}); make sure nobody else runs here")
            return file
        # Its last holder may have removed the file after we opened it; then it locks nothing.
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
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if others share it
        path.unlink(missing_ok=True)
    except OSError:
        pass  # the last of them removes the file
    finally:
        file.close()
