"""Joins this process to the others of its run, and ends all of them when one fails.

jax's coordination service, which runs in process 0, connects the processes. In each of them a
thread reports every second that it is alive and watches the others: a process that stops with an
error says why, and one that has been silent for `hosts.timeout` counts as dead. In both cases all
end with the same line and status.

jax watches too, but aborts with a stack trace. Its timeouts are therefore longer than ours, and
matter only where the thread cannot help: when process 0 dies, its service dies with it, and jax
aborts the others at once.
"""

import inspect
import itertools
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NoReturn

from rocketjax.config.schema import HostsConfig
from rocketjax.runtime.errors import InputError

REPORT_EVERY = 1.0  # seconds between two reports, and between two looks at the others'
FAREWELL = 5.0  # seconds that a failing process waits for the others to hear of it
LOST = 134  # exit status when another process is missing; the one that jax's abort gives, too
ALIVE, STOPPED, LEAVING = "rocketjax/alive/", "rocketjax/stopped/", "rocketjax/leaving"
MISSING = "died, or cannot be reached; the same command on every host resumes the run"

_member: "_Member | None" = None  # one per process, as jax.distributed is


@contextmanager
def joined(config: HostsConfig) -> Iterator[bool]:
    """Makes this process one of several for its block, if options or environment say so.

    Enter it before anything asks jax for devices. Yields whether this is process 0, the one that
    prints. A block that ends normally waits for the others to end theirs; after an error, call
    `leave`.

    Raises:
        InputError: options that do not fit together, no cluster that jax knows, or an address that
            process 0 cannot listen at.
    """
    config = resolve_hosts(config)
    if not config.coordinator:
        yield True
        return
    global _member
    _member = _Member(config)
    yield _member.process == 0
    _member.part()
    _member = None


def resolve_hosts(config: HostsConfig) -> HostsConfig:
    """The options, with what they leave open filled in from the environment.

    Raises:
        InputError: an address without a port, or without the numbers of processes and of this one.
    """
    coordinator = config.coordinator or os.environ.get("ROCKETJAX_COORDINATOR", "")
    process = -1 if config.process is None else config.process
    try:
        processes = config.processes or int(os.environ.get("ROCKETJAX_PROCESSES", "0"))
        if process < 0:
            process = int(os.environ.get("ROCKETJAX_PROCESS", "-1"))
    except ValueError as error:
        raise InputError(f"ROCKETJAX_PROCESSES, ROCKETJAX_PROCESS: {error}") from error
    if coordinator in ("", "auto"):
        if processes or process >= 0:
            raise InputError(
                "hosts.processes and hosts.process go with hosts.coordinator HOST:PORT (auto asks "
                "the cluster for all three)"
            )
        return replace(config, coordinator=coordinator)
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"hosts.coordinator is {coordinator!r}; give HOST:PORT, or auto")
    if not 0 <= process < processes:
        raise InputError(
            f"hosts.process is {process if process >= 0 else 'not given'}, hosts.processes "
            f"{processes}; with hosts.coordinator {coordinator} give hosts.processes N, and to "
            "each process its own hosts.process, from 0 to N - 1"
        )
    return replace(config, coordinator=coordinator, processes=processes, process=process)


def leave(status: int, message: str) -> int:
    """Ends this process and tells the others why, if it is one of several; else returns `status`.

    A normal exit would wait for the others, and they for this process.
    """
    if _member is not None:
        _member.end_all(status, f"process {_member.name} stopped: {message}")
    return status


def crash(error: Exception) -> None:
    """`leave` after an unexpected error, with a traceback; returns if only one process runs."""
    if _member is None:
        return
    traceback.print_exc()
    if re.match("[A-Z_]+: ", str(error)):  # a status of jax's runtime: a collective that failed?
        print(f"another process may have died: waiting {_member.timeout} s", file=sys.stderr)
        time.sleep(_member.timeout + 5)  # the watch ends this process if one did
    leave(1, f"{type(error).__name__}: {error}")


class _Member:
    """This process as one of several."""

    def __init__(self, config: HostsConfig) -> None:
        from jax._src.distributed import global_state  # its client has no public name

        _initialize(config)
        self.process = global_state.process_id
        self.name = f"{self.process} of {global_state.num_processes} ({socket.gethostname()})"
        self._client: Any = global_state.client
        self.timeout = config.timeout
        self._parted = threading.Event()
        self._ending = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def part(self) -> None:
        """Waits until every process has finished its work, then leaves in good order."""
        import jax

        from rocketjax.runtime import processes

        processes.barrier()  # however long it takes; jax's shutdown waits for hosts.timeout only
        self._parted.set()
        jax.distributed.shutdown()

    def end_all(self, status: int, reason: str, line: str = "") -> NoReturn:
        """Tells the others to end with `status` and why, and ends; `line` is printed last."""
        if not self._ending.acquire(blocking=False):
            time.sleep(2 * FAREWELL)  # the other thread is ending this process
        try:
            with suppress(RuntimeError):  # jax's: a process is dead, or does not answer
                self._client.key_value_set(f"{STOPPED}{self.process}", f"{status} {reason}")
                self._client.wait_at_barrier(LEAVING, int(FAREWELL * 1000))
            if self.process == 0:  # goes last: jax aborts those that it leaves behind
                time.sleep(REPORT_EVERY)
        finally:  # a Ctrl-C cuts the farewell short
            _exit(status, line)

    def _watch(self) -> None:
        own = f"{ALIVE}{self.process}"
        latest: dict[str, tuple[str, float]] = {}  # key -> a process' last report, and since when
        for count in itertools.count():
            try:
                if count:  # is process 0 still there to answer?
                    self._client.blocking_key_value_get(own, self.timeout * 1000)
                self._client.key_value_set(own, f"{count} {self.name}", allow_overwrite=True)
                self._check(latest)
            except RuntimeError as error:  # jax's; for any but a deadline, jax itself aborts
                if "DEADLINE_EXCEEDED" in str(error):
                    _exit(LOST, f"error: process 0 {MISSING}")
            if self._parted.wait(REPORT_EVERY):
                return

    def _check(self, latest: dict[str, tuple[str, float]]) -> None:
        """Ends this process if another has stopped, or has been silent for too long."""
        for _, note in self._client.key_value_dir_get(STOPPED):
            status, _, reason = note.partition(" ")
            self.end_all(int(status), reason, f"error: {reason}")
        now = time.monotonic()
        for key, report in self._client.key_value_dir_get(ALIVE):
            last, since = latest.get(key, ("", now))
            if report != last:
                latest[key] = report, now
            elif now - since > self.timeout and not self._parted.is_set():
                reason = f"process {report.partition(' ')[2]} {MISSING}"
                self.end_all(LOST, reason, f"error: {reason}")


def _initialize(config: HostsConfig) -> None:
    import jax  # late: a command that runs as one process may have no need for it

    automatic = config.coordinator == "auto"
    if config.process == 0 and not automatic:
        _check_port(config.coordinator)
    alone = (
        f"error: hosts.coordinator {config.coordinator}: the processes did not all meet within "
        f"{config.wait} s (--hosts.wait); start the same command on every host, each of which must "
        "reach process 0"
    )
    # jax 0.7 does not know it, and waits five minutes for the others at the end.
    known = "shutdown_timeout_seconds" in inspect.signature(jax.distributed.initialize).parameters
    shutdown = {"shutdown_timeout_seconds": config.timeout} if known else {}
    give_up = threading.Timer(config.wait, _exit, (LOST, alone))
    give_up.daemon = True
    give_up.start()
    try:
        jax.distributed.initialize(
            None if automatic else config.coordinator,
            None if automatic else config.processes,
            None if automatic else config.process,
            # With all three given, no cluster is asked (SLURM's would take one device a process).
            cluster_detection_method=None if automatic else "deactivate",
            initialization_timeout=config.wait + 10,
            # Half of it after a death at the earliest: the watch comes first.
            heartbeat_timeout_seconds=2 * config.timeout + 10,
            **shutdown,  # pyright: ignore[reportArgumentType]
        )
    except ValueError as error:
        raise InputError(
            f"hosts.coordinator is auto, but jax knows no cluster here ({error}); give "
            "hosts.coordinator HOST:PORT, hosts.processes and hosts.process"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"hosts.coordinator {config.coordinator}: {error}") from error
    finally:
        give_up.cancel()


def _check_port(coordinator: str) -> None:
    """Refuses a port that is in use: jax's service would end in a segmentation fault."""
    port = coordinator.rpartition(":")[2]
    try:
        socket.create_server(("", int(port))).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"hosts.coordinator: process 0 cannot listen at {coordinator}: {error}; if another "
            "program holds the port, take another"
        ) from error


def _exit(status: int, line: str = "") -> NoReturn:
    """Ends this process from any thread, without the shutdown in which jax waits for the others."""
    if line:
        print(line, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
