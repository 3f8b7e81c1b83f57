"""Trains one stage: from parameters and batches to parameters, with checkpoints to go on from."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax

from rocketjax.config.changes import training_fields
from rocketjax.config.schema import Config, StageConfig
from rocketjax.models.encoder import Params
from rocketjax.runtime import processes, signals
from rocketjax.runtime.devices import data_parallel, replicate
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say, Watch
from rocketjax.runtime.signals import Preempted
from rocketjax.text.batch import ListBatch
from rocketjax.training.checkpoint import Checkpoints, Facts
from rocketjax.training.journal import Journal, TrainLog
from rocketjax.training.loop import QueriesOf, fit
from rocketjax.training.optimizer import make_optimizer
from rocketjax.training.step import TermsOf, TrainState, init_state, train_step


class Feed(NamedTuple):
    """One round of training, from a step on."""

    batches: Iterator[ListBatch]
    queries_of: QueriesOf
    lists: str  # a hash of the lists and texts that the round's batches are made of


# Of a step and the models' parameters at it; the lists may be mined with them.
Feeds: TypeAlias = Callable[[int, Params], Feed]


# Of a step and the models' parameters at it: what the models are worth, by measure.
Judge: TypeAlias = Callable[[int, Params], Mapping[str, float]]


def train_stage(
    name: str,
    config: Config,
    stage: StageConfig,
    params: Params,
    terms_of: TermsOf,
    weights: Mapping[str, float],
    feeds: Feeds,
    folder: Path,
    say: Say,
    watch: Watch,
    *,
    round_length: int = 0,
    judge: Judge | None = None,
) -> Params:
    """Trains `params` for the stage's steps, or for what is left of them.

    Args:
        feeds: called at every round's first step, and where a stopped run goes on.
        folder: the run's; the stage's checkpoints are in checkpoints/`name`, every step's metrics
            go to log.jsonl and its like (journal.py).
        round_length: steps for which one feed serves; 0: all.
        judge: asked at the first step, at the last, and every `config.evaluate.every` steps.

    Raises:
        NonFiniteError: training diverged; the last checkpoint before it stays.
        InputError: the last checkpoint belongs to other options or lists.
        Preempted: a SIGTERM came; what was trained is saved.
    """
    if stage.steps == 0:
        return params
    optimizer = make_optimizer(stage.optimizer, stage.steps)
    step = partial(train_step, terms_of=terms_of, weights=weights, optimizer=optimizer)
    program = data_parallel(step, backend=config.compute.parallel)
    state = replicate(init_state(params, optimizer, config.seed))
    facts = {"options": _as_json(training_fields(config)), "devices": jax.device_count()}
    every, length = config.checkpoint.every, round_length or stage.steps
    look_every = config.evaluate.every or stage.steps
    with (
        Checkpoints(folder / "checkpoints" / name, config.checkpoint.keep, say) as saved,
        watch(name, stage.steps, "steps") as advance,
    ):
        state, facts = _go_on(saved, state, name, facts, say)
        advance(int(state.step))
        journal = Journal(config, folder, name, int(state.step), params.keys())
        look = partial(_look, journal, judge) if judge else None
        with closing(journal):
            if look and _is_due(int(state.step), look_every, stage.steps):
                look(int(state.step), state)  # or was stopped before it could
            while (done := int(state.step)) < stage.steps:
                end = min((done // length + 1) * length, stage.steps)
                saved.wait()  # a round's lists are mined with this very state
                feed = feeds(done, state.params)
                if done % length and facts["lists"] != feed.lists:
                    raise _refusal(name, done, "other lists or texts")
                facts["lists"] = feed.lists
                journal.rewind_clock()
                with signals.deferred() as asked, leaving_together(saved):
                    state = fit(
                        state,
                        program,
                        journal.counted(feed.batches),
                        feed.queries_of,
                        range(done, end),
                        partial(_report, journal, name, say),
                        save=partial(_save, saved, journal.log, facts, every, end),
                        save_every=every,
                        advance=advance,
                        spare=max(stage.max_bad_steps - int(state.skipped), 0),
                        stop=processes.together(asked),
                        look=look,
                        look_every=look_every,
                    )
            if look:
                look(stage.steps, state)
        saved.wait()
        best = saved.best()
        if config.checkpoint.take == "best" and best is not None:
            say(f"{name}: ends with its best checkpoint, that of step {best}")
            state = saved.restore(best, state)
        return state.params


@contextmanager
def leaving_together(saved: Checkpoints) -> Iterator[None]:
    """All processes stop at one step, and none goes before the state of that step is on disk.

    Who leaves ends the others, process 0 too, which alone saves.
    """
    try:
        yield
    except Preempted:
        saved.wait()
        processes.barrier()
        raise


def _go_on(
    saved: Checkpoints, state: TrainState, name: str, facts: Facts, say: Say
) -> tuple[TrainState, dict[str, Any]]:
    """The last good checkpoint's state and facts, or those of the start."""
    step = saved.latest()
    if step is None:
        say(f"{name}: starts at step 0")
        return state, {**facts}
    say(f"{name}: goes on from step {step}")
    before = saved.facts(step)
    wrong = [  # what came to exist since then was as it is by default: the pipeline has compared
        f"{key}: {before['options'][key]} -> {value}"
        for key, value in facts["options"].items()
        if before["options"].get(key, value) != value
    ]
    if wrong:
        raise _refusal(name, step, f"other options ({'; '.join(wrong)})")
    if before["devices"] != facts["devices"]:
        say(
            f"{name}: {before['devices']} devices until now, {facts['devices']} from here: the "
            "same batches in the same order, results equal but for rounding"
        )
    return saved.restore(step, state), {**facts, "lists": before["lists"]}


def _save(
    saved: Checkpoints,
    log: TrainLog,
    facts: Facts,
    every: int,
    end: int,
    done: int,
    state: TrainState,
) -> None:
    # The best is chosen among these only: the choice must not know where a run was stopped.
    regular = done % every == 0 or done == end
    saved.save(done, state, {**facts, "loss": log.loss if regular else None})


def _refusal(name: str, step: int, what: str) -> InputError:
    return InputError(
        f"the checkpoint of step {step} of {name} was trained with {what}; go on with those, or "
        f"train the stage anew: --from {name}"
    )


def _is_due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def _look(journal: Journal, judge: Judge, step: int, state: TrainState) -> None:
    """Judges the models as they are, unless they were."""
    if not journal.is_judged(step):
        journal.judged(step, judge(step, state.params))
        journal.rewind_clock()


def _report(journal: Journal, name: str, say: Say, values: dict[str, Any]) -> None:
    journal.step(values)
    if "bad" in values:
        say(f"{name}: step {values['step']} is not applied: {values['bad']} (see log.jsonl)")


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from a file."""
    return json.loads(json.dumps(values))
