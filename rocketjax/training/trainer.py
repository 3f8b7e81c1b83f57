"""Trains one stage: from parameters and batches to parameters, with checkpoints to resume from."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import jax

from rocketjax.config.changes import matters_by, training_fields
from rocketjax.config.schema import Config, StageConfig
from rocketjax.models.encoder import Params
from rocketjax.runtime import processes, signals
from rocketjax.runtime.devices import data_parallel, replicate
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Advance, Say, Watch
from rocketjax.runtime.signals import Preempted, ShouldStop
from rocketjax.training.callbacks import Callback
from rocketjax.training.checkpoint import Checkpoints
from rocketjax.training.journal import Journal
from rocketjax.training.loop import Feed, Step, fit
from rocketjax.training.optimizer import clipped, make_optimizer
from rocketjax.training.step import Objective, TrainState, init_state, train_step

# Of the models' parameters at a step: how good the models are, by measure.
Judge: TypeAlias = Callable[[int, Params], Mapping[str, float]]


class Context(Protocol):
    """What every stage of a run is given."""

    @property
    def config(self) -> Config:
        """All options."""
        ...

    @property
    def folder(self) -> Path:
        """The run's folder."""
        ...

    @property
    def say(self) -> Say:
        """Prints a line for people."""
        ...

    @property
    def watch(self) -> Watch:
        """Shows the progress of long work."""
        ...

    @property
    def callbacks(self) -> Sequence[Callback]:
        """Told of steps and judgements."""
        ...

    @property
    def commit(self) -> Callable[[], None]:
        """What is in the run's folder is to outlast this machine."""
        ...


class Feeds(Protocol):
    """The batches of a stage, by rounds: a refresh mines lists with the models as they are."""

    @property
    def length(self) -> int:
        """Steps in a round; 0: one round is the whole stage."""
        ...

    def from_step(self, step: int, params: Params) -> Feed:
        """The batches from `step` to the end of its round; `params`: the models at that step."""
        ...


def train_stage(
    run: Context,
    name: str,
    stage: StageConfig,
    params: Params,
    objective: Objective,
    feeds: Feeds,
    judge: Judge | None = None,
) -> Params:
    """Trains `params` for the stage's steps, or for those that a stopped run has left.

    Checkpoints are in checkpoints/`name` of the run's folder; every step's metrics go to log.jsonl
    and the files beside it (journal.py).

    Args:
        feeds: asked for batches at the first step of every round, and where a stopped run resumes.
        judge: called at the first step, at the last, and every `config.evaluate.every` steps.

    Raises:
        NonFiniteError: training diverged; the last checkpoint before it stays.
        InputError: the last checkpoint belongs to other options, of this stage or of earlier ones,
            or to other lists.
        Preempted: a SIGTERM came; what was trained is saved.
    """
    if stage.steps == 0:
        return params
    config = run.config
    optimizer = make_optimizer(stage.optimizer, stage.steps)
    step = partial(train_step, objective=objective, optimizer=optimizer)
    program = data_parallel(step, backend=config.compute.parallel)
    state = replicate(init_state(params, optimizer, config.seed))
    checkpoints = run.folder / "checkpoints" / name
    with (
        Checkpoints(checkpoints, config.checkpoint.keep, run.say, run.commit) as saved,
        run.watch(name, stage.steps, "steps") as advance,
    ):
        state, facts = _resume(saved, state, name, run)
        done = int(state.step)
        advance(done)
        with closing(Journal(config, run.folder, name, done, params.keys())) as journal:
            trainer = _Trainer(run, name, stage, saved, journal, facts, advance, judge)
            state = trainer.train(state, program, feeds)
        saved.wait()
        best = saved.best()
        if config.checkpoint.take == "best" and best is not None:
            run.say(f"{name}: ends with its best checkpoint, that of step {best}")
            state = saved.restore(best, state)
        return state.params


@contextmanager
def leaving_together(saved: Checkpoints) -> Iterator[None]:
    """All processes stop at one step, and none exits before the state of that step is on disk.

    A process that exits ends the others, process 0 too, which alone saves.
    """
    try:
        yield
    except Preempted:
        saved.wait()
        processes.barrier()
        raise


@dataclass
class _Trainer:
    """The hooks of a stage's loop: it journals, saves, judges and stops."""

    run: Context
    name: str
    stage: StageConfig
    saved: Checkpoints
    journal: Journal
    facts: dict[str, Any]
    advance: Advance
    judge: Judge | None
    end: int = 0  # of the round at work
    stop: ShouldStop = signals.never

    def train(self, state: TrainState, program: Step, feeds: Feeds) -> TrainState:
        """Round after round, up to the stage's last step."""
        if self._judges(int(state.step)):
            self._judge(int(state.step), state)  # or was stopped before it could
        while int(state.step) < self.stage.steps:
            state = self._train_round(state, program, feeds)
        return state

    def _train_round(self, state: TrainState, program: Step, feeds: Feeds) -> TrainState:
        done, length = int(state.step), feeds.length or self.stage.steps
        self.end = min((done // length + 1) * length, self.stage.steps)
        self.saved.wait()  # a round's lists are mined with this very state
        feed = feeds.from_step(done, state.params)
        if done % length and self.facts["lists"] != feed.lists:
            raise _refusal(self.name, done, "other lists or texts")
        self.facts["lists"] = feed.lists
        self.journal.rewind_clock()
        feed = feed._replace(batches=self.journal.counted(feed.batches))
        tolerated = max(self.stage.max_bad_steps - int(state.skipped), 0)
        with signals.deferred() as asked, leaving_together(self.saved):
            self.stop = processes.stop_together(asked)
            return fit(state, program, feed, range(done, self.end), self, tolerated)

    def on_metrics(self, metrics: dict[str, Any]) -> None:
        """Journals a step, and says what was bad about it."""
        if "bad" not in metrics:
            metrics = metrics | clipped(self.stage.optimizer, metrics)
        self.journal.step(metrics)
        for callback in self.run.callbacks:
            callback.on_step(self.name, metrics)
        if "bad" in metrics:
            self.run.say(
                f"{self.name}: step {metrics['step']} is not applied: {metrics['bad']} (see "
                "log.jsonl)"
            )
        self.advance(1)

    def should_stop(self) -> bool:
        """Whether a signal asked some process to stop."""
        return self.stop()

    def wants_state(self, done: int) -> bool:
        """Whether it is time to save or to judge."""
        return self._saves(done) or self._judges(done)

    def on_state(self, done: int, state: TrainState, stopping: bool) -> None:
        """Saves, and judges where there is time for it."""
        if stopping or self._saves(done):
            self._save(done, state)
        if not stopping and self._judges(done):
            self._judge(done, state)

    def _saves(self, done: int) -> bool:
        return done % self.run.config.checkpoint.every == 0 or done == self.end

    def _judges(self, done: int) -> bool:
        if self.judge is None:  # a state that nobody wants would be waited for
            return False
        every = self.run.config.evaluate.every or self.stage.steps
        return done % every == 0 or done == self.stage.steps

    def _save(self, done: int, state: TrainState) -> None:
        # The best is chosen among regular checkpoints only: the choice must not depend on where a
        # run was stopped.
        loss = self.journal.log.loss if self._saves(done) else None
        self.saved.save(done, state, {**self.facts, "loss": loss})

    def _judge(self, done: int, state: TrainState) -> None:
        """Judges the models as they are, unless they were judged already."""
        if self.judge is not None and not self.journal.is_judged(done):
            measures = self.judge(done, state.params)
            for callback in self.run.callbacks:
                callback.on_judged(self.name, done, measures)
            self.journal.judged(done, measures)  # last: who raised is told again on resuming
            self.journal.rewind_clock()


def _resume(
    saved: Checkpoints, state: TrainState, name: str, run: Context
) -> tuple[TrainState, dict[str, Any]]:
    """The last good checkpoint's state and facts, or those of the start."""
    options = json.loads(json.dumps(training_fields(run.config)))  # as they come from a file
    facts: dict[str, Any] = {"options": options, "devices": jax.device_count()}
    step = saved.latest()
    if step is None:
        run.say(f"{name}: starts at step 0")
        return state, facts
    run.say(f"{name}: resumes at step {step}")
    before = saved.facts(step)
    # An option added since then had its default, and a collection has its content under any name:
    # the pipeline has compared both, and the lists and their texts are compared by a hash.
    # What only later stages depend on may change.
    wrong = [
        f"{key}: {before['options'][key]} -> {value}"
        for key, value in facts["options"].items()
        if key != "data.collection"
        and before["options"].get(key, value) != value
        and matters_by(key, name)
    ]
    if wrong:
        raise _refusal(name, step, f"other options ({'; '.join(wrong)})")
    if before["devices"] != facts["devices"]:
        run.say(
            f"{name}: {before['devices']} devices until now, {facts['devices']} from here: the "
            "same batches in the same order, results equal except for rounding"
        )
    return saved.restore(step, state), facts | {"lists": before["lists"]}


def _refusal(name: str, step: int, what: str) -> InputError:
    return InputError(
        f"the checkpoint of step {step} of {name} was trained with {what}; resume with those, or "
        f"train the stage again: --from {name}"
    )
