"""Several processes as one run: what process 0 does alone, and where all wait for each other.

All processes run the same program on the same inputs and call these functions in the same order;
each has devices of its own (see parallel.py). The run's folder lies on a file system that all of
them share. Where one process runs, nothing here costs anything.

Waiting and telling go through jax's coordination service, not through the devices: a process may
wait for another as long as it takes, which a collective on devices does not allow.
"""

import itertools
import json
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax._src.distributed import global_state  # the service's client has no public name
from jax.experimental import multihost_utils

from rocketjax.runtime.errors import InputError, writing

T = TypeVar("T")


LOOK = 2_000  # milliseconds that a process waits before it hears a Ctrl-C


_calls = itertools.count()  # the same in every process, as their calls are


_steps = itertools.count()  # jax wants one count for the whole run


def is_main() -> bool:
    """Whether this is process 0, which writes what all share."""
    return jax.process_index() == 0


def from_main(work: Callable[[], T]) -> T:
    """Process 0 works, and the others wait; each gets what came of it, which JSON must hold."""
    if jax.process_count() == 1:
        return work()
    key = f"rocketjax/told/{next(_calls)}"
    if is_main():
        result = work()
        _client().key_value_set(key, json.dumps(result))
        return result
    return json.loads(_waited_for(key))


def main_first(work: Callable[[], T]) -> T:
    """Every process works, but process 0 before the others: what it caches, they find."""
    if jax.process_count() == 1:
        return work()
    result = work() if is_main() else None
    barrier()
    return result if is_main() else work()  # pyright: ignore[reportReturnType]


def barrier() -> None:
    """No process goes on before all are here."""
    everyones(None)


def everyones(value: Any) -> list[Any]:
    """What each process gave, in their order; JSON must hold it."""
    if jax.process_count() == 1:
        return [value]
    key = f"rocketjax/everyones/{next(_calls)}"
    _client().key_value_set(f"{key}/{jax.process_index()}", json.dumps(value))
    return [json.loads(_waited_for(f"{key}/{i}")) for i in range(jax.process_count())]


def check_same(what: str, value: str) -> None:
    """Refuses processes that were given different things: they would train apart.

    Raises:
        InputError: in every process, with the name of the first host that differs.
    """
    found = everyones([socket.gethostname(), value])
    for process, (host, theirs) in enumerate(found):
        if theirs != found[0][1]:
            raise InputError(
                f"{what}: process {process} ({host}) has {_different(theirs, found[0][1])}, but "
                f"process 0 ({found[0][0]}) {_different(found[0][1], theirs)}; give all the same"
            )


def check_shared(folder: Path) -> None:
    """Refuses a folder that is not one and the same for all processes; makes it where it is not.

    Raises:
        InputError: in every process, with the name of the first host that does not see it.
    """
    if jax.process_count() == 1:
        return
    mark = folder / f".shared.{from_main(lambda: _leave_mark(folder))}"
    seen = everyones([socket.gethostname(), mark.is_file()])
    if is_main():
        mark.unlink(missing_ok=True)
    for process, (host, sees) in enumerate(seen):
        if not sees:
            raise InputError(
                f"{folder.absolute()}: process {process} ({host}) does not see what process 0 "
                f"({seen[0][0]}) writes here; take a folder on a file system that all hosts share, "
                "at one path (see docs/hosts.md)"
            )


def together(asked: Callable[[], bool]) -> Callable[[], bool]:
    """A question asked once a step, such that all processes hear yes at one and the same step.

    Where several run, jax notices a SIGTERM to any of them, and finds the step; else `asked` it is.
    """
    if jax.process_count() == 1:
        return asked
    return lambda: multihost_utils.reached_preemption_sync_point(next(_steps))


def _waited_for(key: str) -> str:
    """What some process says there, once it does; a process that dies meanwhile ends this one."""
    while True:
        try:
            return _client().blocking_key_value_get(key, LOOK)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _leave_mark(folder: Path) -> str:
    token = uuid.uuid4().hex
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".shared.{token}").write_text("one folder for all processes\n")
    return token


def _different(text: str, other: str) -> str:
    """The first line that differs; short texts whole."""
    pairs = itertools.zip_longest(text.splitlines(), other.splitlines(), fillvalue="nothing")
    return next((mine.strip() for mine, theirs in pairs if mine != theirs), text)


def _client() -> Any:
    if global_state.client is None:  # a slice of TPU hosts knows its processes by itself
        raise InputError(
            f"{jax.process_count()} processes share these devices, but were not joined; add "
            "--hosts.coordinator auto on every host; a command without that option runs on one "
            "host, with JAX_PLATFORMS=cpu"
        )
    return global_state.client
