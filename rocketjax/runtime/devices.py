"""Where arrays live and how a per-device function runs on all devices at once."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rocketjax.runtime.errors import InputError

AXIS = "devices"  # the one named axis of every collective


Device: TypeAlias = Any  # jax.Device, which type checkers take for a variable


Backend: TypeAlias = Literal["pmap", "shard_map"]


Tree = TypeVar("Tree")


State = TypeVar("State")


PerDevice: TypeAlias = Callable[[State, Any], tuple[State, Any]]


def check_divisible(batch: int, devices: int, what: str) -> None:
    """Refuses a batch that cannot be dealt out evenly."""
    if batch % devices:
        nearest = max(devices, batch - batch % devices)
        raise InputError(
            f"{what} is {batch}, which {devices} devices cannot share evenly; take {nearest} or "
            f"{nearest + devices}, or start fewer devices"
        )


def all_devices() -> list[Device]:
    """Every process' devices, those of one side by side, so that its rows of a batch are too."""
    return sorted(jax.devices(), key=lambda device: device.process_index)


def data_parallel(
    step: PerDevice[State],
    devices: list[Device] | None = None,
    backend: Backend = "pmap",
) -> Callable[[State, Any], tuple[State, Any]]:
    """Runs a per-device `step(state, batch) -> (state, metrics)` on all devices, jitted.

    Args:
        step: sees the whole state and its device's rows of the batch; talks to the other devices
            through collectives over `AXIS` and must return the same on each of them.
        devices: default all, of all processes.
        backend: two ways to the same result; pmap is what jax keeps for such functions, shard_map
            where it is going.

    Returns:
        A function of the state, which has no device axis and is donated (do not use it again),
        and of the global batch [B, ...], whose rows are dealt out in order. Where several
        processes run, each gives the same batch and its own copy of the state, on its own devices.
    """
    devices = devices or all_devices()
    if backend == "pmap":
        # State in and out without a device axis: every device computes the same new state.
        mapped = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=None,  # pyright: ignore[reportArgumentType]
            donate_argnums=0,
            devices=devices,
        )
        local = sum(device.process_index == jax.process_index() for device in devices)
        return lambda state, batch: mapped(state, _deal(own_rows(batch, devices), local))
    mesh = Mesh(np.array(devices), (AXIS,))
    # check_vma=False: with it on, jax would add the gradients up by itself, and our psum again.
    sharded = jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(), check_vma=False),
        donate_argnums=0,
    )
    if jax.process_count() == 1:
        return sharded

    def joint(state: State, batch: Any) -> tuple[State, Any]:
        whole = multihost_utils.host_local_array_to_global_array(
            (state, own_rows(batch, devices)), mesh, (P(), P(AXIS))
        )
        return multihost_utils.global_array_to_host_local_array(sharded(*whole), mesh, P())

    return joint


def own_rows(batch: Tree, devices: list[Device]) -> Tree:
    """This process' share [b, ...] of a global batch [B, ...] that is dealt out over `devices`."""
    own = [i for i, d in enumerate(devices) if d.process_index == jax.process_index()]

    def rows(x: Any) -> Any:
        each = len(x) // len(devices)
        return x[own[0] * each : (own[-1] + 1) * each]

    return jax.tree.map(rows, batch)


def _deal(batch: Tree, devices: int) -> Tree:
    """[B, ...] -> [devices, B / devices, ...]."""
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)


def replicate(tree: Tree, devices: list[Device] | None = None) -> Tree:
    """A copy of every array on every device of this process: no transfer is left to the step."""
    return jax.device_put(tree, NamedSharding(local_mesh(devices), P()))


def shard_rows(tree: Tree) -> Tree:
    """Spreads the rows [N, ...] of every array over this process' devices, which divide N."""
    return jax.device_put(tree, NamedSharding(local_mesh(), P(AXIS)))


def local_mesh(devices: list[Device] | None = None) -> Mesh:
    """This process' devices, or some of them."""
    return Mesh(np.array(devices or jax.local_devices()), (AXIS,))


def on_each_device(part: Callable[..., jax.Array], mesh: Mesh) -> Callable[..., jax.Array]:
    """Runs `part(params, *arrays)` on the devices of a mesh, each with its rows of the arrays.

    Made for within a jit; what comes out are the rows of all.
    """

    def everywhere(params: Any, *arrays: Any) -> jax.Array:
        specs = (P(), *(P(AXIS) for _ in arrays))
        # check_vma=False: nothing is said to be equal on all devices but the parameters.
        run = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False)
        return run(params, *arrays)

    return everywhere
