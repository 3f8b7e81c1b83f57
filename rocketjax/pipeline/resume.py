"""Opens a run folder: a new one, or one to resume, and what of it must run again."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rocketjax.config.changes import ORDER, changes, differences
from rocketjax.config.options import dump, load
from rocketjax.config.schema import Config, HostsConfig
from rocketjax.pipeline.stages import STAGES
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import is_empty, read_json, remove, sweep, write_json, write_text
from rocketjax.runtime.lock import NAME
from rocketjax.runtime.progress import Say
from rocketjax.training.journal import forget

UNFINISHED = "unfinished.json"  # the stage that was stopped, and its seconds until then


def open_folder(folder: Path, config: Config, say: Say) -> dict[str, float]:
    """Which stages are done, by their seconds; a new folder, or one to start anew in, has none.

    Raises:
        InputError: the folder holds no run, or one of another config that `from_stage` does not
            say to go over to.
    """
    # A folder with nothing but a config is of a run that was refused before its first stage.
    there = [path for path in folder.iterdir() if path.name not in (NAME, UNFINISHED)]
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
        write_done(folder, done)  # before what it speaks of goes
        for step in again:
            forget(folder, step.name)
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


def write_done(folder: Path, done: dict[str, float], last: str = "") -> None:
    """Records which stages are done and how long each took."""
    write_json(folder / "stages.json", done)
    remove(folder / UNFINISHED)
    if last:
        remove(folder / "checkpoints" / last)  # the models are stored, and known to be


def _write_config(folder: Path, config: Config) -> None:
    write_text(folder / "config.yaml", dump(lasting(config)))


def lasting(config: Config) -> Config:
    """Without what is about one invocation."""
    return dataclasses.replace(
        config, overwrite=False, stages=(), from_stage=None, hosts=HostsConfig()
    )
