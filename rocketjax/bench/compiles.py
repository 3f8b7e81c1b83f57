"""How often XLA compiles in a whole run, and how long that takes.

Counted in a process of its own: a program that this one has compiled already would not be compiled
again.
"""

import contextlib
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from rocketjax.bench.measure import Answer, Fact, answer, worker_process
from rocketjax.config.options import dump, load
from rocketjax.config.schema import Config
from rocketjax.pipeline import run as pipeline
from rocketjax.runtime.progress import unsaid, unwatched

COMPILED = "/jax/core/compile/backend_compile_duration"  # of jax.monitoring


def measure(config: Config) -> Iterator[Fact]:
    """Facts of a run of all stages, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        run = dataclasses.replace(config, run_dir=str(Path(folder) / "run"))
        path.write_text(dump(run), encoding="utf-8")
        with worker_process("rocketjax.bench.compiles", path) as ask:
            counts = ask("run")
    yield Fact("programs compiled in a run", counts["compiled"], "programs", "")
    yield Fact("compiling in a run", counts["compiling"], "seconds", "")
    yield Fact("a run", counts["seconds"], "seconds", "")


@contextlib.contextmanager
def counting() -> Iterator[list[float]]:
    """Within its block, the seconds of every compilation are appended to the list."""
    compilations: list[float] = []
    counts = True

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if counts and event == COMPILED:
            compilations.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compilations
    finally:
        counts = False  # jax 0.7 cannot take a listener away


def main() -> None:
    """Trains by the config it is given, and answers with the counts."""

    def run(_: str) -> Answer:
        started = time.monotonic()
        with counting() as compilations:
            pipeline.run(load(Path(sys.argv[1])), unsaid, unwatched)
        seconds = time.monotonic() - started
        return {
            "compiled": len(compilations),
            "compiling": sum(compilations),
            "seconds": seconds,
        }

    answer(run)


if __name__ == "__main__":
    main()
