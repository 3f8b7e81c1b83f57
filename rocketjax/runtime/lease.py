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

from rocketjax.runtime.cloud import Cloud
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say

NAME = ".lock"
EVERY = 15.0  # seconds between two signs of life
STALE = 60.0  # seconds without one after which a lock is nobody's
LOOK = 3.0  # seconds between two looks at another's


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
    here = f"{socket.gethostname()}:{folder}"
    content = {"process": os.getpid(), "host": socket.gethostname(), "folder": here}
    data = json.dumps(content | {"token": uuid.uuid4().hex}).encode()
    lease = Lease(cloud, data, _acquire(cloud, data, here, say))
    try:
        yield lease
    finally:
        lease.release()


def _acquire(cloud: Cloud, data: bytes, here: str, say: Say) -> int:
    """The generation of the lock that was written."""
    seen, since, said = 0, time.monotonic(), False
    while True:
        there = cloud.read(NAME)
        if there is None:
            generation = cloud.write(NAME, data, 0)
        else:
            owner = _owner(there[0])
            if seen and there[1] != seen:
                raise InputError(
                    f"{cloud.address}: {_named(owner)} is at work here; wait for it, stop it, or "
                    "choose another address"
                )
            if owner.get("folder") == here or time.monotonic() - since > STALE and seen:
                generation = cloud.write(NAME, data, there[1])
            else:
                seen = there[1]
                if not said:
                    say(
                        f"{cloud.address}: {_named(owner)} was at work here; watching for "
                        f"{STALE:.0f} s whether it still is"
                    )
                    said = True
                time.sleep(LOOK)
                continue
        if generation is not None:
            return generation


def _owner(data: bytes) -> dict[str, object]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _named(owner: dict[str, object]) -> str:
    return f"process {owner.get('process', '?')} on {owner.get('host', '?')}"
