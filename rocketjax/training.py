"""Trains one stage: from parameters and batches to parameters, with checkpoints to go on from."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

from rocketjax import steps
from rocketjax.batch import ListBatch
from rocketjax.checkpoint import Checkpoints
from rocketjax.config import Config, StageConfig
from rocketjax.fit import fit
from rocketjax.models.encoder import Params
from rocketjax.optim import make_optimizer
from rocketjax.parallel import data_parallel, replicate
from rocketjax.progress import Watch
from rocketjax.state import init_state
from rocketjax.train_log import TrainLog

# From a step on: the batches of one round of training; and the models' parameters at its start.
Batches: TypeAlias = Callable[[int, Params], Iterator[ListBatch]]


def train_stage(
    name: str,
    config: Config,
    stage: StageConfig,
    params: Params,
    terms_of: steps.TermsOf,
    weights: Mapping[str, float],
    batches: Batches,
    folder: Path,
    watch: Watch,
    round_length: int = 0,
) -> Params:
    """Trains `params` for the stage's steps, or for what is left of them.

    Args:
        batches: called at every round's first step (and where a stopped run goes on) with that
            step and the parameters at hand; the batches may be mined with them.
        folder: the run's; the stage's checkpoints are kept in checkpoints/`name` until its caller
            has stored the result, every step's metrics go to log.jsonl.
        round_length: steps for which one call of `batches` serves; 0: all.

    Raises:
        NonFiniteError: training diverged; the last checkpoint before it stays.
    """
    if stage.steps == 0:
        return params
    optimizer = make_optimizer(stage.optimizer, stage.steps)
    step = partial(steps.train_step, terms_of=terms_of, weights=weights, optimizer=optimizer)
    program = data_parallel(step, backend=config.compute.parallel)
    state = replicate(init_state(params, optimizer, config.seed))
    every = config.checkpoint.every
    with (
        Checkpoints(folder / "checkpoints" / name, config.checkpoint.keep) as saved,
        watch(name, stage.steps, "steps") as advance,
    ):
        state = saved.restore(state) or state
        done = int(state.step)
        advance(done)
        log = TrainLog(folder / "log.jsonl", name, done)
        while done < stage.steps:
            length = round_length or stage.steps
            stop = min((done // length + 1) * length, stage.steps)
            feed = batches(done, state.params)
            numbers = range(done, stop)
            state = fit(state, program, feed, numbers, log.write, saved.save, every, advance)
            done = stop
        return state.params
