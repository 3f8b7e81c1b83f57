"""Runs the stages in order; a run that was stopped resumes with the first that is not done."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax

from rocketjax.config.fields import Stage
from rocketjax.config.loss import preset_line
from rocketjax.config.options import checked, dump
from rocketjax.config.schema import Config, run_name
from rocketjax.evaluation import results
from rocketjax.evaluation.results import Report
from rocketjax.inference.start import pretrained_tokenizer
from rocketjax.mining.rules import unread_line
from rocketjax.pipeline.context import WITH_STEPS, Run, Watching, open_run
from rocketjax.pipeline.lists import check_teacher
from rocketjax.pipeline.resume import (
    UNFINISHED,
    content_of,
    is_renamed,
    lasting,
    open_folder,
    record_content,
    write_done,
)
from rocketjax.pipeline.stages import STAGES, PipelineStage
from rocketjax.report import page
from rocketjax.retrieval.open import check_buildable
from rocketjax.runtime import processes
from rocketjax.runtime.cloud import is_address
from rocketjax.runtime.devices import check_divisible
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_json, write_json
from rocketjax.runtime.memory import release_freed_memory
from rocketjax.runtime.progress import Say, Watch
from rocketjax.runtime.signals import Preempted
from rocketjax.runtime.workplace import opened
from rocketjax.text.cut import cut_line
from rocketjax.training.callbacks import Callback
from rocketjax.training.checkpoint import half_written
from rocketjax.training.trackers import check_wandb

BUILDS = ("start", "encode", "index")  # stages that may build an index


def run(
    config: Config, say: Say, watch: Watch, callbacks: Sequence[Callback] = ()
) -> Report | None:
    """Trains a retriever and a re-ranker jointly and judges both before and after.

    Everything is written into the run folder (see stages.py); stages.json says which stages are
    done. The same command again resumes where the last was stopped.

    Args:
        config: all options.
        say: prints a line for people.
        watch: shows the progress of long work.
        callbacks: told of stages, steps and judgements, in the first of several processes.

    Returns:
        The report, or None where `config.stages` left out the evaluation.

    Raises:
        InputError: anything given that does not fit, or another run is at work in the folder;
            nothing trained is lost.
        NonFiniteError: training diverged.
        Preempted: a SIGTERM came, and a command handles it (cli/command.py).
    """
    config = checked(dataclasses.asdict(config), str)  # one built in Python is not checked yet
    for name in WITH_STEPS:
        check_divisible(getattr(config, name).batch, jax.device_count(), f"{name}.batch")
    check_wandb(config)
    processes.check_same("options", dump(lasting(config)))
    processes.check_shared(Path(run_name(config)))
    with opened(run_name(config), say, skip=half_written) as place:
        told = tuple(callbacks) if processes.is_main() else ()
        watching = Watching(say, place.watched(watch), told, place.commit)
        return _run(config, place.folder, watching)


def _run(config: Config, folder: Path, watching: Watching) -> Report | None:
    say, context = watching.say, None
    if processes.from_main(lambda: is_renamed(folder, config)):
        context = open_run(config, folder, watching)
    content = content_of(context) if context else None
    done = processes.from_main(lambda: open_folder(folder, config, say, content))
    watching.commit()
    waiting = [stage for stage in STAGES if stage.name not in done]
    chosen = [stage for stage in waiting if not config.stages or stage.name in config.stages]
    if chosen:
        for line in filter(None, (preset_line(config.loss), unread_line(config.lists))):
            say(line)
        say(f"devices: {jax.device_count()} x {jax.devices()[0].device_kind}")
        context = context or open_run(config, folder, watching)
        content = content or content_of(context)
        processes.from_main(lambda: record_content(folder, content))
        if any(stage.name in BUILDS for stage in chosen):
            check_buildable(config.index, len(context.collection.passages))
        if chosen[0].name == "start":  # later, the weights may be gone
            _say_what_is_cut(context)
            check_teacher(context)
        for stage in chosen:
            _check_earlier(stage, done)
            say(f"{stage.name}")
            for callback in watching.callbacks:
                callback.on_stage(stage.name)
            with _timed(folder, stage.name) as seconds:
                stage.run(context)
                release_freed_memory()
            done[stage.name] = seconds()
            processes.from_main(lambda stage=stage: write_done(folder, done, stage.name))
            watching.commit()
    else:
        say(f"{folder}: every stage asked for is done; --overwrite starts again")
    if "evaluate" not in done:
        return None
    # Only now are all its times known. There is no page if the run was stopped just before.
    if processes.is_main() and (chosen or not (folder / "report.html").is_file()):
        page.write(folder)
    found = results.load(folder)  # it may name the folder that the run was in before
    name = run_name(config) if is_address(run_name(config)) else str(folder)
    return dataclasses.replace(found, folder=name, seconds=done)  # pyright: ignore


def _say_what_is_cut(context: Run) -> None:
    config, passages = context.config, context.collection.passages
    tokenizers = [
        pretrained_tokenizer(config.retriever.weights, config.text, "retriever"),
        pretrained_tokenizer(config.reranker.weights, config.text, "reranker"),
    ]
    for name, split in (("training", context.train), ("held-out", context.held_out)):
        if line := cut_line(f"{name} texts", split, passages, *tokenizers):
            context.say(line)


@contextmanager
def _timed(folder: Path, stage: Stage) -> Iterator[Callable[[], float]]:
    """A stage's seconds, those before a stop included; a kill or an error leaves none behind."""
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


def _check_earlier(stage: PipelineStage, done: dict[str, float]) -> None:
    for earlier in STAGES[: STAGES.index(stage)]:
        if earlier.name not in done:
            raise InputError(
                f"stage {stage.name} needs stage {earlier.name}, which has not run; add it to "
                "--stages, or leave --stages out"
            )
