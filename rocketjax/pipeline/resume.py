"""Opens a run folder: a new one, or one to resume, and what of it must run again."""

import dataclasses
import hashlib
import json
from pathlib import Path

from rocketjax.config.changes import EFFECTS, ORDER, changes, differences
from rocketjax.config.options import dump, load_own
from rocketjax.config.schema import Config, HostsConfig
from rocketjax.pipeline.context import Run
from rocketjax.pipeline.stages import STAGES
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import (
    is_empty,
    read_json,
    read_object,
    remove,
    sweep,
    write_json,
    write_text,
)
from rocketjax.runtime.lock import NAME as LOCK
from rocketjax.runtime.progress import Say
from rocketjax.training.journal import forget

UNFINISHED = "unfinished.json"  # the stage that was stopped, and its seconds until then
COLLECTION = "collection.json"  # a hash of what is trained and judged on


def content_of(run: Run) -> str:
    """A hash of the passages, and of the queries and judgements that the run trains and judges on.

    Where the collection lies, and by which name, makes no difference.
    """
    train, judged = run.train, run.held_out
    parts = [run.queries, train.qrels, judged.queries, judged.qrels, judged.answers]
    if run.config.lists.source == "given":
        parts.append(train.negatives)
    if run.config.loss.teacher != "live" and not run.config.lists.teacher:
        parts.append(train.scores)
    text = json.dumps([dict(part) for part in parts], sort_keys=True, default=dict)
    digest = hashlib.blake2b(run.collection.fingerprint.encode(), digest_size=16)
    digest.update(text.encode())
    return digest.hexdigest()


def record_content(folder: Path, content: str) -> None:
    """Writes down what the run in this folder trains and judges on."""
    write_json(folder / COLLECTION, {"content": content})


def is_renamed(folder: Path, config: Config) -> bool:
    """Whether the folder holds a run of a collection by another name, whose content is known."""
    known = all((folder / name).is_file() for name in ("config.yaml", COLLECTION))
    if not known or config.overwrite:
        return False
    return load_own(folder / "config.yaml").data.collection != config.data.collection


def open_folder(
    folder: Path, config: Config, say: Say, content: str | None = None
) -> dict[str, float]:
    """The stages that are done, with their seconds; none in a new folder, or one to start over in.

    Args:
        folder: the run's.
        config: the options it is to go on with.
        say: prints what stays though it depends on other options.
        content: of the collection, if `is_renamed`: with the content it had, it is the same one.

    Raises:
        InputError: the folder holds no run, or one with other options and `from_stage` does not
            say from where on the new ones count.
    """
    # A folder with nothing but a config is left by a run refused before its first stage.
    there = [path for path in folder.iterdir() if path.name not in (LOCK, UNFINISHED)]
    if not is_empty(folder) and not {path.name for path in there} <= {"config.yaml", COLLECTION}:
        if not (folder / "config.yaml").is_file():
            raise InputError(f"{folder}: holds other files and no run; choose another --run-dir")
        if not config.overwrite:
            return _resume(folder, config, say, content)
        for path in sorted(there, key=lambda path: path.name == "config.yaml"):
            remove(path)  # the config last: stopped halfway, it is still a run's folder
    if config.from_stage not in (None, "start"):
        raise InputError(f"{folder}: no run here to resume with --from {config.from_stage}")
    remove(folder / UNFINISHED)
    _write_config(folder, config)
    return {}


def _resume(folder: Path, config: Config, say: Say, content: str | None) -> dict[str, float]:
    old = load_own(folder / "config.yaml")
    if content and content == read_object(folder / COLLECTION).get("content"):
        name = config.data.collection
        say(f"{name} has the content that {old.data.collection} had: the run resumes with it")
        old = dataclasses.replace(old, data=dataclasses.replace(old.data, collection=name))
    if config.from_stage is None and changes(old, config):
        changed = "; ".join(differences(old, config))
        raise InputError(
            f"{folder}: holds a run with other options ({changed}); resume with those, "
            "or --from STAGE to run that stage and all after it with these, or --overwrite to "
            f"start over, or choose another --{'run-dir' if config.run_dir else 'name'}"
        )
    path = folder / "stages.json"
    done = read_json(path) if path.is_file() else {}
    if not isinstance(done, dict) or not all(isinstance(s, int | float) for s in done.values()):
        raise InputError(f"{path}: damaged: not stages and seconds; --overwrite starts over")
    if config.from_stage is not None:
        if config.from_stage != "start" and "start" in done and config.evaluate.start:
            _check_comparable(folder, old, config)
        first = ORDER.index(config.from_stage)
        late = {name: s for name, s in changes(old, config).items() if ORDER.index(s) < first}
        if late:
            say(
                f"what stages before {config.from_stage} made stays, though they depend on "
                f"{', '.join(late)}; --from {min(late.values(), key=ORDER.index)} makes it again"
            )
        again = STAGES[first:]
        done = {name: value for name, value in done.items() if name not in {s.name for s in again}}
        write_done(folder, done)  # before what it lists is removed
        for stage in again:
            forget(folder, stage.name)
            for name in (*stage.leaves, f"checkpoints/{stage.name}"):
                remove(folder / name)
    _write_config(folder, config)
    for name in done:
        remove(folder / "checkpoints" / name)  # the last command was stopped just before
    sweep(folder)
    return done


def _check_comparable(folder: Path, old: Config, new: Config) -> None:
    """The starting models are not judged again: what they were judged by must stay.

    Another collection is refused by its content: vectors belong to one (retrieval/open.py).
    """
    wrong = differences(old, new, lambda option: EFFECTS[option].judged)
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
        remove(folder / "checkpoints" / last)  # the models are stored, and recorded as stored


def _write_config(folder: Path, config: Config) -> None:
    write_text(folder / "config.yaml", dump(lasting(config)))


def lasting(config: Config) -> Config:
    """Without the options that concern one invocation only."""
    return dataclasses.replace(
        config, overwrite=False, stages=(), from_stage=None, hosts=HostsConfig()
    )
