"""Train states on disk, each proven whole before it is used: the only importer of orbax.

    checkpoints/joint/40/state/      the state, as orbax writes it
                         facts.json  what it belongs to, and how well training went
                         sums.json   size and hash of every other file; written last

A checkpoint without sums.json is half-written, one that differs from it is damaged; neither is
ever read. Tensorstore alone would not notice a flipped bit.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from rocketjax.runtime import processes
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_object, remove, write_json
from rocketjax.runtime.progress import Say
from rocketjax.runtime.workplace import uncommitted
from rocketjax.training.step import TrainState

SUMS = "sums.json"
Facts = Mapping[str, Any]


@jax.jit
def _copy(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)


class Checkpoints:
    """The checkpoints of one stage, by step; use it as a context.

    Saving runs in the background; leaving the context waits for it. The last `keep`
    stay, and of those with a loss the one with the lowest. Where several processes run, process 0
    saves and each restores; all of them hold the same state.
    """

    def __init__(
        self, folder: Path, keep: int, say: Say, commit: Callable[[], None] = uncommitted
    ) -> None:
        """Opens or makes the folder; says which checkpoints are no good, and removes them.

        `commit` is called in the background after each that is whole.
        """
        self._folder = folder.resolve()
        self._keep, self._commit = keep, commit
        # Each process by itself: orbax refuses to share out arrays that lie on one's own devices.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}
        )
        self._checkpointer = ocp.StandardCheckpointer(multiprocessing_options=alone)
        self._thread = ThreadPoolExecutor(1)
        self._saving: Future[None] | None = None
        self._facts: dict[int, Facts] = dict(processes.from_main(lambda: self._found(say)))

    def _found(self, say: Say) -> list[tuple[int, Facts]]:
        self._folder.mkdir(parents=True, exist_ok=True)
        found = []
        for path in sorted(path for path in self._folder.iterdir() if path.name.isdecimal()):
            try:
                _check_whole(path)
                found.append((int(path.name), read_object(path / "facts.json")))
            except InputError as error:
                say(f"{path}: {error}; removed")
                remove(path)
        return found

    def latest(self) -> int | None:
        """The last step saved; None where nothing is."""
        return max(self._facts, default=None)

    def best(self) -> int | None:
        """The step with the lowest "loss" among its facts, the later of equals."""
        return processes.from_main(self._best)  # who alone follows the loss

    def _best(self) -> int | None:
        judged = [step for step, facts in self._facts.items() if facts.get("loss") is not None]
        return min(judged, key=lambda step: (self._facts[step]["loss"], -step), default=None)

    def facts(self, step: int) -> Facts:
        """What was saved with the state."""
        return self._facts[step]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of `step`, shaped and placed as `like`.

        Raises:
            InputError: whole by its sums, and yet no such state: forged, or of other versions.
        """
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        path = self._path(step) / "state"
        try:
            return cast(TrainState, self._checkpointer.restore(path, shapes))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path}: holds no such training state: {error}; delete {path.parent}, and the "
                "checkpoint before it is used"
            ) from error

    def save(self, step: int, state: TrainState, facts: Facts) -> None:
        """Saves a state, and facts that JSON can hold; what is saved of `step` already stays.

        Waits for the checkpoint before and for a copy of the state on its devices, no longer.
        """
        self.wait()
        if step in self._facts:
            return
        if not processes.is_main():
            self._facts[step] = facts
            return
        # A copy: the train step takes its state's memory back while this is still written.
        copied = jax.block_until_ready(_copy(jax.block_until_ready(state)))
        self._saving = self._thread.submit(self._write, step, copied, dict(facts))

    def wait(self) -> None:
        """Until what was saved is on disk, and whole; then removes what need not be kept.

        Raises:
            InputError: it could not be written.
        """
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        with self._writing():
            saving.result()
        for step in set(self._facts) - {*sorted(self._facts)[-self._keep :], self._best()}:
            del self._facts[step]
            (self._path(step) / SUMS).unlink()  # half-written from now on, should this be stopped
            remove(self._path(step))

    def _write(self, step: int, state: TrainState, facts: Facts) -> None:
        path = self._path(step)
        remove(path)
        path.mkdir()
        alone = state if jax.process_count() == 1 else jax.device_get(state)
        self._checkpointer.save(path / "state", alone)
        self._checkpointer.wait_until_finished()
        write_json(path / "facts.json", facts)
        write_json(path / SUMS, _sums(path))
        self._facts[step] = facts
        self._commit()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except InputError:  # a ValueError, too
            raise
        except (OSError, ValueError) as error:  # tensorstore raises ValueError where a disk is full
            raise InputError(f"{self._folder}: a checkpoint cannot be written: {error}") from error

    def _path(self, step: int) -> Path:
        return self._folder / str(step)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._checkpointer.close()


def half_written(folder: Path) -> bool:
    """Whether a folder of a run is that of a checkpoint which is not whole yet."""
    among_them = folder.parent.parent.name == "checkpoints" and folder.name.isdecimal()
    return among_them and not (folder / SUMS).is_file()


def _check_whole(path: Path) -> None:
    """Raises InputError where a checkpoint is half-written or damaged."""
    if not (path / SUMS).is_file():
        raise InputError("half-written")
    wanted, found = read_object(path / SUMS), _sums(path)
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            what = "missing" if name not in found else "not what was written"
            raise InputError(f"damaged: {name} is {what}")


def _sums(path: Path) -> dict[str, list[int | str]]:
    """Size and hash of every file but SUMS, by its path."""
    result: dict[str, list[int | str]] = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != SUMS:
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "blake2b").hexdigest()[:32]
            result[file.relative_to(path).as_posix()] = [file.stat().st_size, digest]
    return result
