"""Several processes as one run: what process 0 does alone, and where all wait for each other.

All processes run the same program on the same inputs and call these functions in the same order;
each has its own devices (see devices.py). The run's folder is on a file system that all of them
share, or at an address (`exchanging`). With one process, nothing here costs anything.

Values are exchanged through jax's coordination service, not through the devices: a process may wait
for another as long as it takes, which a collective on devices does not allow.
"""

import itertools
import json
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
from jax._src.distributed import global_state  # its client has no public name
from jax.experimental import multihost_utils

from rocketjax.runtime.cloud import is_address
from rocketjax.runtime.errors import InputError, writing
from rocketjax.runtime.signals import ShouldStop

T = TypeVar("T")
POLL = 2_000  # milliseconds; a Ctrl-C is heard between two polls only


class Exchange(NamedTuple):
    """How processes with no disk in common share what they write."""

    share: Callable[[], None]  # process 0: lets the others have what is there; they: fetch it
    give: Callable[[], list[str]]  # lets process 0 have what was written here; names for `take`
    take: Callable[[list[str]], None]  # process 0: takes files that were given


_exchange: Exchange | None = None  # on a disk that all see, none is needed
_calls = itertools.count()  # equal in all processes, since their calls are
_steps = itertools.count()  # jax wants one count for the whole run


def is_main() -> bool:
    """Whether this is process 0, which writes what all processes share."""
    return jax.process_index() == 0


def number() -> int:
    """Which process this is, from 0."""
    return jax.process_index()


def from_main(work: Callable[[], T]) -> T:
    """Runs `work` in process 0 while the others wait; returns its result in all of them.

    The result must survive JSON.
    """
    if jax.process_count() == 1:
        return work()
    key = f"rocketjax/from_main/{next(_calls)}"
    if is_main():
        result = work()
        if _exchange:
            _exchange.share()
        _client().key_value_set(key, json.dumps(result))
        return result
    result = json.loads(_wait_for(key))
    if _exchange:
        _exchange.share()
    return result


def main_first(work: Callable[[], T]) -> T:
    """Runs `work` in process 0, then in the others, which find what process 0 has cached."""
    if jax.process_count() == 1:
        return work()
    result = work() if is_main() else None
    barrier()
    return result if is_main() else work()  # pyright: ignore[reportReturnType]


def barrier() -> None:
    """Waits until all processes have got here."""
    allgather(None)


def allgather(value: Any) -> list[Any]:
    """Every process' `value`, by process number. Values must survive JSON."""
    if jax.process_count() == 1:
        return [value]
    exchange = _exchange
    if exchange is None:
        return _gathered(value)
    values = _gathered([value, exchange.give()])
    from_main(lambda: exchange.take([name for _, names in values for name in names]))
    return [value for value, _ in values]


def _gathered(value: Any) -> list[Any]:
    key = f"rocketjax/allgather/{next(_calls)}"
    _client().key_value_set(f"{key}/{jax.process_index()}", json.dumps(value))
    return [json.loads(_wait_for(f"{key}/{i}")) for i in range(jax.process_count())]


@contextmanager
def exchanging(exchange: Exchange) -> Iterator[None]:
    """In its block, files that one process writes are there for all where they wait for it."""
    global _exchange
    _exchange = exchange
    try:
        yield
    finally:
        _exchange = None


def check_same(what: str, value: str) -> None:
    """Refuses to run if processes were given different things, which would train them apart.

    Args:
        what: the name of `value` in the message.

    Raises:
        InputError: in every process; names the first host that differs from process 0.
    """
    (main_host, expected), *others = allgather([socket.gethostname(), value])
    for process, (host, other) in enumerate(others, 1):
        if other != expected:
            raise InputError(
                f"{what}: process {process} ({host}) has {_first_difference(other, expected)}, but "
                f"process 0 ({main_host}) {_first_difference(expected, other)}; give all the same"
            )


def check_shared(folder: Path) -> None:
    """Refuses a folder that is not the same one for all processes; makes it if it is missing.

    An address is the same one everywhere.

    Raises:
        InputError: in every process; names the first host that does not see what process 0 writes.
    """
    if jax.process_count() == 1 or is_address(folder):
        return
    mark = folder / f".shared.{from_main(lambda: _leave_mark(folder))}"
    sightings = allgather([socket.gethostname(), mark.is_file()])
    if is_main():
        mark.unlink(missing_ok=True)
    for process, (host, sees_mark) in enumerate(sightings):
        if not sees_mark:
            raise InputError(
                f"{folder.absolute()}: process {process} ({host}) does not see what process 0 "
                f"({sightings[0][0]}) writes here; take a folder on a file system that all hosts "
                "share, at one path (see docs/hosts.md)"
            )


def stop_together(should_stop: ShouldStop) -> ShouldStop:
    """A question to ask once per step, which all processes answer with yes at the same step.

    With several processes jax notices a SIGTERM to any of them and agrees on the step, whatever
    `should_stop` says; with one, it is `should_stop`.
    """
    if jax.process_count() == 1:
        return should_stop
    return lambda: multihost_utils.reached_preemption_sync_point(next(_steps))


def _wait_for(key: str) -> str:
    """The value of a key, once some process has set it; its death would end this process."""
    while True:
        try:
            return _client().blocking_key_value_get(key, POLL)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _leave_mark(folder: Path) -> str:
    token = uuid.uuid4().hex
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".shared.{token}").write_text("one folder for all processes\n")
    return token


def _first_difference(text: str, other: str) -> str:
    """The first line of `text` that differs from that of `other`."""
    pairs = itertools.zip_longest(text.splitlines(), other.splitlines(), fillvalue="nothing")
    return next((line.strip() for line, counterpart in pairs if line != counterpart), text)


def _client() -> Any:
    if global_state.client is None:  # the hosts of a TPU slice know each other anyway
        raise InputError(
            f"{jax.process_count()} processes share these devices, but were not joined; add "
            "--hosts.coordinator auto on every host; a command without that option runs on one "
            "host, with JAX_PLATFORMS=cpu"
        )
    return global_state.client
