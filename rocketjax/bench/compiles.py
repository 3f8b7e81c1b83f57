"""How often XLA compiles in a whole run, and how long that takes.

Run as a process, since what this one has compiled already would not be compiled again.
"""

import contextlib
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from rocketjax.bench.measure import Answer, Fact, answer, asked
from rocketjax.config.options import dump, load
from rocketjax.config.schema import Config
from rocketjax.pipeline import run as run_module
from rocketjax.runtime.progress import unsaid, unwatched

COMPILED = "/jax/core/compile/backend_compile_duration"  # of jax.monitoring


def measure(config: Config) -> Iterator[Fact]:
    """A run of all stages in a folder of its own, by a process that counts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        run = dataclasses.replace(config, run_dir=str(Path(folder) / "run"))
        path.write_text(dump(run), encoding="utf-8")
        with asked("rocketjax.bench.compiles", path) as ask:
            found = ask("run")
    yield Fact("programs compiled in a run", found["compiled"], "programs", "")
    yield Fact("compiling in a run", found["compiling"], "seconds", "")
    yield Fact("a run", found["seconds"], "seconds", "")


@contextlib.contextmanager
def counting() -> Iterator[list[float]]:
    """Within its block, the list grows by the seconds of every compilation."""
    taken: list[float] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event == COMPILED:
            taken.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield taken
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def main() -> None:
    """Answers with the counts of one run."""

    def run(_: str) -> Answer:
        started = time.monotonic()
        with counting() as taken:
            run_module.run(load(Path(sys.argv[1])), unsaid, unwatched)
        seconds = time.monotonic() - started
        return {"compiled": len(taken), "compiling": sum(taken), "seconds": seconds}

    answer(run)


if __name__ == "__main__":
    main()
