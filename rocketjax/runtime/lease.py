"""A lock in Google Cloud Storage, which knows of no process that has ended.

The object .lock names its holder, who writes it again every few seconds. Who finds one watches it:
if it is written again, its holder lives, and he leaves; if it stays as it is for `STALE` seconds,
he takes it. No clocks are compared. A holder who was only held up finds it taken, and writes no
more; what he had begun cannot be committed (mirror.py).
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from rocketjax.runtime.cloud import Cloud
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_json, write_json
from rocketjax.runtime.progress import Say

NAME = ".lock"
EVERY = 15.0  # seconds between two signs of life
STALE = 60.0  # seconds without one after which a lock is nobody's
LOOK = 3.0  # seconds between two looks at another's

Owner: TypeAlias = dict[str, Any]


class Lease:
    """A held lock."""

    def __init__(self, cloud: Cloud, content: bytes, generation: int) -> None:
        """Renews it in a thread from now on."""
        self._cloud, self._content, self._generation = cloud, content, generation
        self._lost, self._end = False, threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises InputError if another has taken the lock."""
        if self._lost:
            raise InputError(
                f"{self._cloud.address}: another process has taken over, as nothing was heard of "
                f"this one for {STALE:.0f} s; it resumes what was here by then"
            )

    def release(self) -> None:
        """Lets others have it."""
        self._end.set()
        self._thread.join()
        if not self._lost:
            with suppress(InputError):  # it will count as stale
                self._cloud.delete(NAME, self._generation)

    def _renew(self) -> None:
        while not self._end.wait(EVERY):
            with suppress(InputError):  # not reached: the next time, maybe
                generation = self._cloud.write(NAME, self._content, self._generation)
                if generation is None:
                    self._lost = True
                    return
                self._generation = generation


@contextmanager
def leased(cloud: Cloud, folder: Path, say: Say) -> Iterator[Lease]:
    """Holds the lock of an address while its block runs.

    Args:
        folder: of this machine, in which the address is worked on; whoever holds its own lock
            (lock.py) knows that an earlier holder there has ended, and need not watch.

    Raises:
        InputError: another process is at work there; it is named.
    """
    owner = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "folder": _mark(folder.parent / "folder.json"),
        "id": uuid.uuid4().hex,
    }
    lease = Lease(cloud, json.dumps(owner).encode(), _acquire(cloud, owner, say))
    try:
        yield lease
    finally:
        lease.release()


def _acquire(cloud: Cloud, owner: Owner, say: Say) -> int:
    """The generation of the lock that was written."""
    generation = None
    while generation is None:
        there = cloud.read(NAME)
        if there is None:
            generation = cloud.write(NAME, json.dumps(owner).encode(), 0)
            continue
        other = _owner(there[0])
        if other.get("folder") != owner["folder"]:
            say(f"{cloud.address}: {_named(other)} has the lock; watching whether it still lives")
            _watch(cloud, there[1])
        generation = cloud.write(NAME, json.dumps(owner).encode(), there[1])
    return generation


def _watch(cloud: Cloud, generation: int) -> None:
    """Waits until a lock counts as stale. Raises InputError where its holder lives."""
    end = time.monotonic() + STALE
    while time.monotonic() < end:
        time.sleep(LOOK)
        there = cloud.read(NAME)
        if there is None:
            return  # given back
        if there[1] != generation:
            raise InputError(
                f"{cloud.address}: {_named(_owner(there[0]))} is at work here; wait for it, stop "
                "it, or choose another address"
            )


def _mark(path: Path) -> str:
    """Of a folder, unlike that of any other; names of hosts and paths may be equal."""
    if not path.is_file():
        write_json(path, uuid.uuid4().hex)
    return str(read_json(path))


def _owner(data: bytes) -> Owner:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _named(owner: Owner) -> str:
    return f"process {owner.get('process', '?')} on {owner.get('host', '?')}"
