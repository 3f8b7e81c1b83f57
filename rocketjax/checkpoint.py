"""Train states on disk: the only importer of orbax."""

from pathlib import Path
from types import TracebackType
from typing import cast

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from rocketjax import distributed
from rocketjax.state import TrainState


@jax.jit
def _copy(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)


class Checkpoints:
    """The checkpoints of one stage, by step; use it as a context.

    Saving goes on behind the training's back; leaving the context waits for it. Orbax writes a
    checkpoint aside and renames it: a half-written one is never restored. Where several processes
    run, process 0 saves and each restores; all of them hold the same state.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        """Opens or makes the folder; the last `keep` checkpoints stay."""
        distributed.from_main(lambda: folder.mkdir(parents=True, exist_ok=True))
        # Each process by itself: orbax refuses to share out arrays that lie on one's own devices.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=False, multiprocessing_options=alone
        )
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def restore(self, like: TrainState) -> TrainState | None:
        """The latest state, shaped and placed as `like`; None where nothing was saved."""
        step = distributed.from_main(self._manager.latest_step)
        if step is None:
            return None
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return cast(TrainState, self._manager.restore(step, args=ocp.args.StandardRestore(shapes)))

    def save(self, step: int, state: TrainState) -> None:
        """Saves a state as that of `step`."""
        if not distributed.is_main() or step == self._manager.latest_step():
            return
        # A copy: the train step takes its state's memory back while this is still written.
        copied = jax.block_until_ready(_copy(jax.block_until_ready(state)))
        if jax.process_count() > 1:
            copied = jax.device_get(copied)
        self._manager.save(step, args=ocp.args.StandardSave(copied))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.wait_until_finished()
        self._manager.close()
