"""Runs the stages in order; a run that was stopped goes on with the first that is not done."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import jax

from rocketjax.config.fields import Stage
from rocketjax.config.loss import overruled
from rocketjax.config.options import checked, dump
from rocketjax.config.schema import Config, run_folder
from rocketjax.evaluation import results
from rocketjax.evaluation.results import Report
from rocketjax.pipeline.context import WITH_STEPS, open_run
from rocketjax.pipeline.resume import UNFINISHED, lasting, open_folder, write_done
from rocketjax.pipeline.stages import STAGES, Step
from rocketjax.report import page
from rocketjax.runtime import processes
from rocketjax.runtime.devices import check_divisible
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_json, write_json
from rocketjax.runtime.lock import held
from rocketjax.runtime.memory import release_freed_memory
from rocketjax.runtime.progress import Say, Watch
from rocketjax.runtime.signals import Preempted
from rocketjax.training.trackers import check_wandb


def run(config: Config, say: Say, watch: Watch) -> Report | None:
    """Trains a retriever and a re-ranker jointly and judges both before and after.

    Everything is written into the run folder (see stages.py); stages.json says which stages are
    done. The same command again goes on where the last was stopped.

    Returns:
        The report, or None where `config.stages` left out the evaluation.

    Raises:
        InputError: anything given that does not fit, or another run is at work in the folder;
            nothing trained is lost.
        NonFiniteError: training diverged.
        Preempted: a SIGTERM came, and a command made it heeded.
    """
    config = checked(dataclasses.asdict(config), str)  # one built in Python was not looked at
    for name in WITH_STEPS:
        check_divisible(getattr(config, name).batch, jax.device_count(), f"{name}.batch")
    folder = run_folder(config)
    check_wandb(config)
    processes.check_same("options", dump(lasting(config)))
    processes.check_shared(folder)
    # One process of several holds the lock for all.
    with held(folder, say) if processes.is_main() else nullcontext():
        return _run(config, folder, say, watch)


def _run(config: Config, folder: Path, say: Say, watch: Watch) -> Report | None:
    done = processes.from_main(lambda: open_folder(folder, config, say))
    waiting = [step for step in STAGES if step.name not in done]
    chosen = [step for step in waiting if not config.stages or step.name in config.stages]
    if chosen:
        if ignored := overruled(config.loss):
            say(
                f"loss.preset {config.loss.preset} decides, and not {', '.join(ignored)}; "
                "--loss.preset custom heeds them"
            )
        say(f"devices: {jax.device_count()} x {jax.devices()[0].device_kind}")
        context = open_run(config, folder, say, watch)
        for step in chosen:
            _check_earlier(step, done)
            say(f"{step.name}")
            with _timed(folder, step.name) as seconds:
                step.run(context)
                release_freed_memory()
            done[step.name] = seconds()
            processes.from_main(lambda step=step: write_done(folder, done, step.name))
    else:
        say(f"{folder}: every stage asked for is done; --overwrite trains anew")
    if "evaluate" not in done:
        return None
    # Only now are all of its times known; and it was stopped just before, if there is none.
    if processes.is_main() and (chosen or not (folder / "report.html").is_file()):
        page.write(folder)
    return dataclasses.replace(results.load(folder), seconds=done)  # pyright: ignore


@contextmanager
def _timed(folder: Path, stage: Stage) -> Iterator[Callable[[], float]]:
    """A stage's seconds, with those until it was stopped before; a kill or an error tells none."""
    path = folder / UNFINISHED
    before = read_json(path) if path.is_file() else {}
    spent = before.get(stage, 0.0) if isinstance(before, dict) else None
    if not isinstance(spent, int | float):
        raise InputError(f"{path}: damaged: not a stage and its seconds; delete it")
    started = time.monotonic()

    def seconds() -> float:
        return round(spent + time.monotonic() - started, 2)

    try:
        yield seconds
    except (Preempted, KeyboardInterrupt):
        if processes.is_main():
            write_json(path, {stage: seconds()})
        raise


def _check_earlier(step: Step, done: dict[str, float]) -> None:
    for earlier in STAGES[: STAGES.index(step)]:
        if earlier.name not in done:
            raise InputError(
                f"stage {step.name} needs stage {earlier.name}, which has not run; add it to "
                "--stages, or leave --stages out"
            )
