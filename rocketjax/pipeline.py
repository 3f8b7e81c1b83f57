"""Runs the stages in order; a run that was stopped goes on with the first that is not done."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import jax

from rocketjax import distributed, journal, lock, page, report, stages
from rocketjax.allocator import release_freed_memory
from rocketjax.changes import ORDER, changes
from rocketjax.config import Config, DataConfig, HostsConfig, Stage, overruled, run_folder
from rocketjax.data.collection import Collection, Split
from rocketjax.data.collections import load_collection
from rocketjax.data.qrels import relevant
from rocketjax.data.splits import hold_out, sample_queries
from rocketjax.errors import InputError
from rocketjax.files import is_empty, read_json, remove, sweep, write_json, write_text
from rocketjax.lock import held
from rocketjax.options import checked, differences, dump, load
from rocketjax.parallel import check_divisible
from rocketjax.preemption import Preempted
from rocketjax.progress import Say, Watch
from rocketjax.report import Report
from rocketjax.trackers import check_wandb
from rocketjax.workspace import Run


class Step(NamedTuple):
    """A stage: what it does, and what it leaves behind, relative to the run folder."""

    name: Stage
    run: Callable[[Run], None]
    leaves: tuple[str, ...]


UNFINISHED = "unfinished.json"  # the stage that was stopped, and its seconds until then
WITH_STEPS = ("retriever_warmup", "reranker_warmup", "joint")
STAGES = (
    Step("start", stages.judge_start, ("start",)),
    Step("warm-retriever", stages.warm_retriever, ("warmup/retriever",)),
    Step("encode", stages.encode, ("warmup/index",)),
    Step("warm-reranker", stages.warm_reranker, ("warmup/lists", "warmup/reranker")),
    Step("mine", stages.mine_lists, ("lists",)),
    Step(
        "joint", stages.train_jointly, ("rounds", "judged.jsonl", "scores", "retriever", "reranker")
    ),
    Step("index", stages.index_corpus, ("index",)),
    Step("evaluate", stages.evaluate, ("runs", "report.json", "report.html")),
)


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
    distributed.check_same("options", dump(_lasting(config)))
    distributed.check_shared(folder)
    # One process of several holds the lock for all.
    with held(folder, say) if distributed.is_main() else nullcontext():
        return _run(config, folder, say, watch)


def _run(config: Config, folder: Path, say: Say, watch: Watch) -> Report | None:
    done = distributed.from_main(lambda: _open_folder(folder, config, say))
    waiting = [step for step in STAGES if step.name not in done]
    chosen = [step for step in waiting if not config.stages or step.name in config.stages]
    if chosen:
        if ignored := overruled(config.loss):
            say(
                f"loss.preset {config.loss.preset} decides, and not {', '.join(ignored)}; "
                "--loss.preset custom heeds them"
            )
        say(f"devices: {jax.device_count()} x {jax.devices()[0].device_kind}")
        context = _context(config, folder, say, watch)
        for step in chosen:
            _check_earlier(step, done)
            say(f"{step.name}")
            with _timed(folder, step.name) as seconds:
                step.run(context)
                release_freed_memory()
            done[step.name] = seconds()
            distributed.from_main(lambda step=step: _write_done(folder, done, step.name))
    else:
        say(f"{folder}: every stage asked for is done; --overwrite trains anew")
    if "evaluate" not in done:
        return None
    # Only now are all of its times known; and it was stopped just before, if there is none.
    if distributed.is_main() and (chosen or not (folder / "report.html").is_file()):
        page.write(folder)
    return dataclasses.replace(report.load(folder), seconds=done)  # pyright: ignore


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
        if distributed.is_main():
            write_json(path, {stage: seconds()})
        raise


def _context(config: Config, folder: Path, say: Say, watch: Watch) -> Run:
    collection = distributed.main_first(
        lambda: load_collection(config.data.collection, config.data.on_bad_rows, say)
    )
    distributed.check_same("data.collection", collection.fingerprint)
    train, judged = _splits(collection, config.data, say)
    held_out = sample_queries(judged, config.data.max_eval_queries)
    if config.lists.source == "given":
        len(train.negatives)  # read late otherwise: bad rows are told before hours of work
    trains = any(getattr(config, name).steps for name in WITH_STEPS)
    for split, name, wanted in ((train, "train", trains), (held_out, "eval", True)):
        if wanted and not any(relevant(judged) for judged in split.qrels.values()):
            raise InputError(
                f"{collection.name}: no query of data.{name}_split has a relevant passage (a grade "
                "above 0); choose another split, or see to its judgements"
            )
    say(
        f"{collection.name}: {len(collection.passages):,} passages, {len(train.queries):,} "
        f"training queries, {len(held_out.queries):,} held-out queries"
    )
    return Run(config, folder, collection, train, held_out, say, watch)


def _splits(collection: Collection, config: DataConfig, say: Say) -> tuple[Split, Split]:
    """What to train on and what to judge on, which is no part of it."""
    train = collection.split(config.train_split)
    if not config.hold_out:
        if config.eval_split == config.train_split:
            raise InputError(
                f"data.eval_split and data.train_split are both {config.train_split!r}, and models "
                "are not judged on what they were trained on; give --data.eval-split an unused "
                "name and --data.hold-out 0.1 to judge on a tenth and train on the others"
            )
        if config.eval_split not in collection.splits:
            raise InputError(
                f"{collection.name} has no split {config.eval_split!r} to judge on (it has "
                f"{', '.join(collection.splits)}); give --data.eval-split, or --data.hold-out 0.1 "
                "to judge on a tenth of the training queries and train on the others"
            )
        judged = collection.split(config.eval_split)
        if both := train.queries.keys() & judged.queries.keys():
            say(
                f"{collection.name}: {len(both):,} queries of {config.train_split} are in "
                f"{config.eval_split} too, and are not trained on"
            )
            train = train.only(query for query in train.queries if query not in both)
        return train, judged
    if config.eval_split in collection.splits:
        raise InputError(
            f"--data.hold-out is for collections without split {config.eval_split!r}, which "
            f"{collection.name} has; leave it out"
        )
    return hold_out(train, config.hold_out)


def _open_folder(folder: Path, config: Config, say: Say) -> dict[str, float]:
    """Which stages are done, by their seconds; a new folder, or one to start anew in, has none.

    Raises:
        InputError: the folder holds no run, or one of another config that `from_stage` does not
            say to go over to.
    """
    # A folder with nothing but a config is of a run that was refused before its first stage.
    there = [path for path in folder.iterdir() if path.name not in (lock.NAME, UNFINISHED)]
    if not is_empty(folder) and {path.name for path in there} != {"config.yaml"}:
        if not (folder / "config.yaml").is_file():
            raise InputError(f"{folder}: holds other files and no run; choose another --run-dir")
        if not config.overwrite:
            return _go_on(folder, config, say)
        for path in sorted(there, key=lambda path: path.name == "config.yaml"):
            remove(path)  # the config last: stopped halfway, it is still a run's folder
    if config.from_stage not in (None, "start"):
        raise InputError(f"{folder}: no run here to go on with --from {config.from_stage}")
    remove(folder / UNFINISHED)
    _write_config(folder, config)
    return {}


def _go_on(folder: Path, config: Config, say: Say) -> dict[str, float]:
    old = load(folder / "config.yaml")
    changed = differences(old, config)
    if changed and config.from_stage is None:
        raise InputError(
            f"{folder}: holds a run with other options ({'; '.join(changed)}); go on with those, "
            "or --from STAGE to run that stage and all after it with these, or --overwrite to "
            f"start anew, or choose another --{'run-dir' if config.run_dir else 'name'}"
        )
    path = folder / "stages.json"
    done = read_json(path) if path.is_file() else {}
    if not isinstance(done, dict) or not all(isinstance(s, int | float) for s in done.values()):
        raise InputError(f"{path}: damaged: not stages and seconds; --overwrite starts anew")
    if config.from_stage is not None:
        if config.from_stage != "start" and "start" in done and config.evaluate.start:
            _check_comparable(folder, changed)
        first = ORDER.index(config.from_stage)
        late = {name: s for name, s in changes(old, config).items() if ORDER.index(s) < first}
        if late:
            say(
                f"what stages before {config.from_stage} made stays, though they would heed "
                f"{', '.join(late)}; --from {min(late.values(), key=ORDER.index)} makes it anew"
            )
        again = STAGES[first:]
        done = {name: value for name, value in done.items() if name not in {s.name for s in again}}
        _write_done(folder, done)  # before what it speaks of goes
        for step in again:
            journal.forget(folder, step.name)
            for name in (*step.leaves, f"checkpoints/{step.name}"):
                remove(folder / name)
    _write_config(folder, config)
    for name in done:
        remove(folder / "checkpoints" / name)  # stopped just before
    sweep(folder)
    return done


def _check_comparable(folder: Path, changed: Sequence[str]) -> None:
    """The starting models are not judged again: what they were judged by must stay."""
    judged = ("data.", "text.", "retriever.", "reranker.", "evaluate.")
    # Another collection is known by its content: indices are of one (retrieval/open.py).
    free = ("data.collection", "data.train_split", "evaluate.every_queries")
    free += ("retriever.keep", "retriever.dropout", "reranker.dropout")
    wrong = [
        change for change in changed if change.startswith(judged) and not change.startswith(free)
    ]
    if wrong:
        raise InputError(
            f"{folder}: the starting models were judged with other options ({'; '.join(wrong)}); "
            "before and after would not compare. --from start judges them again, "
            "--evaluate.no-start leaves them out"
        )


def _check_earlier(step: Step, done: dict[str, float]) -> None:
    for earlier in STAGES[: STAGES.index(step)]:
        if earlier.name not in done:
            raise InputError(
                f"stage {step.name} needs stage {earlier.name}, which has not run; add it to "
                "--stages, or leave --stages out"
            )


def _write_done(folder: Path, done: dict[str, float], last: str = "") -> None:
    write_json(folder / "stages.json", done)
    remove(folder / UNFINISHED)
    if last:
        remove(folder / "checkpoints" / last)  # the models are stored, and known to be


def _write_config(folder: Path, config: Config) -> None:
    write_text(folder / "config.yaml", dump(_lasting(config)))


def _lasting(config: Config) -> Config:
    """Without what is about one invocation."""
    return dataclasses.replace(
        config, overwrite=False, stages=(), from_stage=None, hosts=HostsConfig()
    )
