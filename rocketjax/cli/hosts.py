"""Joins this process to the others of its run, and ends all of them where one ends badly.

jax's coordination service, which process 0 runs, notices a process that died, and aborts the
others. What it prints then is long; a sentinel, a process of its own that outlives the aborted one,
says in one line who died and what to do. A process that stops with an error tells the others why,
so that they need not wait until it is missed.
"""

import faulthandler
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

from rocketjax.config.schema import HostsConfig
from rocketjax.runtime.errors import InputError

BEAT = 1.0  # seconds between two looks at the others


SILENT = 5.0  # seconds without a beat after which a process is named, should jax abort this one


FAREWELL = 10.0  # seconds that process 0 keeps the service up for the others to hear of an error


ALIVE, FAILED, GONE = "rocketjax/alive/", "rocketjax/failed/", "rocketjax/gone/"


GO_ON = "the same command, on every host, goes on where the run was"


# What it reads last is printed if this process was aborted; faulthandler writes that it was.
SENTINEL = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
lines = sys.stdin.read().splitlines()
if any(line.startswith("Fatal Python error: Aborted") for line in lines):
    print([line for line in lines if line.startswith("error: ")][-1], file=sys.stderr)
elif any(line.startswith("Fatal Python error") for line in lines):
    print("\\n".join(line for line in lines if not line.startswith("error: ")), file=sys.stderr)
"""


_member: "_Member | None" = None  # jax.distributed, too, is one for the whole process


@contextmanager
def joined(config: HostsConfig) -> Iterator[bool]:
    """While it lasts, this process is one of several, where options or environment say so.

    Enter it before anything asks jax for devices. Yields whether this is process 0, the one that
    talks. A block that ends well waits for the others to end; on an error call `leave`.

    Raises:
        InputError: options that do not fit together, no cluster that jax knows, or an address that
            process 0 cannot take.
    """
    config = settled(config)
    if not config.coordinator:
        yield True
        return
    global _member
    _member = _Member(config)
    yield _member.process == 0
    _member.part()
    _member = None


def settled(config: HostsConfig) -> HostsConfig:
    """The options, the environment filling in what they leave open.

    Raises:
        InputError: an address without a port, or one without numbers of processes.
    """
    told = os.environ.get
    try:
        config = replace(
            config,
            coordinator=config.coordinator or told("ROCKETJAX_COORDINATOR", ""),
            processes=config.processes or int(told("ROCKETJAX_PROCESSES", "0")),
            process=config.process
            if config.process is not None
            else int(told("ROCKETJAX_PROCESS", "-1")),
        )
    except ValueError as error:
        raise InputError(f"ROCKETJAX_PROCESSES, ROCKETJAX_PROCESS: {error}") from error
    process = -1 if config.process is None else config.process
    if config.coordinator in ("", "auto"):
        if config.processes or process >= 0:
            raise InputError(
                "hosts.processes and hosts.process go with hosts.coordinator HOST:PORT (auto asks "
                "the cluster for all three)"
            )
        return replace(config, process=None)
    host, _, port = config.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"hosts.coordinator is {config.coordinator!r}; give HOST:PORT, or auto")
    if not 0 <= process < config.processes:
        raise InputError(
            f"hosts.process is {process if process >= 0 else 'not given'}, hosts.processes "
            f"{config.processes}; with hosts.coordinator {config.coordinator} give "
            "hosts.processes N, and to each process its own hosts.process, from 0 to N - 1"
        )
    return config


def leave(status: int, message: str) -> int:
    """Ends this process where it is one of several, and tells the others why; else `status`.

    An orderly end would wait for the others, and they for this one.
    """
    if _member is not None:
        _member.leave(status, message)
    return status


def crash(error: Exception) -> None:
    """The same of an error that nobody expected; returns where one process runs."""
    if _member is not None:
        traceback.print_exc()
        _member.crash(error)


class _Member:
    """This process as one of several."""

    def __init__(self, config: HostsConfig) -> None:
        import jax  # not before a command that runs on one process has no need for it
        from jax._src.distributed import global_state

        self._sentinel = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", SENTINEL],
            stdin=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is not for it
        )
        assert self._sentinel.stdin is not None
        self._pipe = self._sentinel.stdin
        faulthandler.enable(self._pipe)
        self._expect(
            f"hosts.coordinator {config.coordinator}: the processes did not all meet within "
            f"{config.wait} s (--hosts.wait); start the same command on every host, each of which "
            "must reach process 0"
        )
        try:
            _initialize(jax, config)
        except InputError:
            self._dismiss()
            raise
        self.process, self.count = global_state.process_id, global_state.num_processes
        self._client: Any = global_state.client
        self._timeout = config.timeout
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def part(self) -> None:
        """Ends the membership in good order."""
        import jax

        from rocketjax.runtime import processes

        processes.barrier()  # as long as it takes; jax's own end has but hosts.timeout
        jax.distributed.shutdown()
        self._ended.set()
        self._dismiss()

    def _dismiss(self) -> None:
        faulthandler.disable()
        self._pipe.close()
        self._sentinel.wait()

    def leave(self, status: int, message: str) -> NoReturn:
        """Tells the others and ends."""
        text = f"{status} process {self.process} of {self.count} ({socket.gethostname()}) stopped: "
        self._tell(f"{FAILED}{self.process}", text + message)
        self._exit(status)

    def crash(self, error: Exception) -> NoReturn:
        """The same, once it is clear that it was not another process' death that broke this one."""
        import jax

        if isinstance(error, jax.errors.JaxRuntimeError):
            print(f"waiting for {self._timeout} s: has another process died?", file=sys.stderr)
            time.sleep(self._timeout + 5)  # jax aborts this process, if so
        self.leave(1, f"{type(error).__name__}: {error}")

    def _exit(self, status: int) -> NoReturn:
        self._tell(f"{GONE}{self.process}", "")
        if self.process == 0:  # its end aborts those that have not heard why
            until = time.monotonic() + FAREWELL
            while len(self._look(GONE)) < self.count and time.monotonic() < until:
                time.sleep(BEAT / 4)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def _watch(self) -> None:
        """Hears of the others' errors, and notices who is silent, in case jax aborts for it."""
        seen: dict[str, tuple[str, float]] = {}  # process -> its last beat, and since when
        expected = ""
        for beat in itertools.count():
            self._tell(f"{ALIVE}{self.process}", f"{beat} {socket.gethostname()}")
            for key, note in self._look(FAILED):
                if key == f"{FAILED}{self.process}":
                    continue  # this process is about to end
                status, _, text = note.partition(" ")
                print(f"error: {text}", file=sys.stderr)
                self._exit(int(status))
            now = time.monotonic()
            for key, value in self._look(ALIVE):
                name = f"{key.rsplit('/', 1)[-1]} ({value.split(' ')[1]})"
                if seen.get(name, ("", 0.0))[0] != value:
                    seen[name] = (value, now)
            death = self._death([name for name, (_, since) in seen.items() if now - since > SILENT])
            if death != expected:
                self._expect(death)
                expected = death
            if self._ended.wait(BEAT):
                return

    def _death(self, silent: list[str]) -> str:
        """What an abort means by now: without process 0 it comes at once, before silence tells."""
        if not silent and self.process == 0:
            return f"process 0 of {self.count} was aborted; see above"
        named = ", ".join(silent) or "0"
        return f"process {named} of {self.count} died, or cannot be reached; {GO_ON}"

    def _expect(self, message: str) -> None:
        """What the sentinel is to say if this process is aborted from now on."""
        os.write(self._pipe.fileno(), f"error: {message}\n".encode())

    def _tell(self, key: str, value: str) -> None:
        try:
            self._client.key_value_set(key, value, allow_overwrite=True)
        except RuntimeError:  # jax's own: process 0 is gone, and jax is about to abort this one
            time.sleep(BEAT)

    def _look(self, key: str) -> list[tuple[str, str]]:
        try:
            return self._client.key_value_dir_get(key)
        except RuntimeError:
            time.sleep(BEAT)
            return []


def _initialize(jax: Any, config: HostsConfig) -> None:
    automatic = config.coordinator == "auto"
    if config.process == 0 and not automatic:
        _refuse_taken(config.coordinator)
    try:
        jax.distributed.initialize(
            None if automatic else config.coordinator,
            None if automatic else config.processes,
            None if automatic else config.process,
            # With all three given, no cluster is asked (SLURM's would take one device a process).
            cluster_detection_method=None if automatic else "deactivate",
            initialization_timeout=config.wait,
            heartbeat_timeout_seconds=config.timeout,
            shutdown_timeout_seconds=config.timeout,
        )
    except ValueError as error:
        raise InputError(
            f"hosts.coordinator is auto, but jax knows no cluster here ({error}); give "
            "hosts.coordinator HOST:PORT, hosts.processes and hosts.process"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"hosts.coordinator {config.coordinator}: {error}") from error


def _refuse_taken(coordinator: str) -> None:
    """jax's own service, where it cannot listen, may end the process by a segmentation fault."""
    port = coordinator.rpartition(":")[2]
    try:
        socket.create_server(("", int(port))).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"hosts.coordinator: process 0 cannot listen at {coordinator}: {error}; another "
            "program may hold the port: take another"
        ) from error
