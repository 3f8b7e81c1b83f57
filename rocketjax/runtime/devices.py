"""Where arrays live, and how a function written for one device runs on all of them."""

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rocketjax.runtime.errors import InputError

AXIS = "devices"  # the one axis name of all collectives
Device: TypeAlias = Any  # jax.Device, which type checkers take for a variable
Backend: TypeAlias = Literal["pmap", "shard_map"]
Tree = TypeVar("Tree")
State = TypeVar("State")
PerDevice: TypeAlias = Callable[[State, Any], tuple[State, Any]]


_started: list[int] = []  # the process in which models were first opened; forks inherit it


def refuse_forked() -> None:
    """Refuses a process forked from one that has opened a model.

    A fork has none of jax's threads, and would wait for them forever.

    Raises:
        InputError: it was forked.
    """
    if not _started:
        _started.append(os.getpid())
    if _started[0] != os.getpid():
        raise InputError(
            "this process was forked from one in which jax runs, and jax would hang here: start "
            "workers with multiprocessing.get_context('spawn') (of a DataLoader, "
            "multiprocessing_context='spawn'), or open no model before the fork"
        )


def processor() -> str:
    """A name for what this machine's processor can do: equal where programs may be shared."""
    about = Path("/proc/cpuinfo")
    cores = about.read_text(encoding="utf-8").split("\n\n") if about.is_file() else [""]
    names = ("flags", "Features", "model", "CPU part")
    kind = [line for line in cores[0].splitlines() if line.startswith(names)]
    text = "\n".join([platform.machine(), platform.processor(), *kind])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def check_divisible(batch: int, devices: int, what: str) -> None:
    """Refuses a batch that devices cannot share evenly.

    Args:
        batch: its size.
        what: the option that sets it, for the message.

    Raises:
        InputError: with the nearest sizes that will do.
    """
    if batch % devices:
        nearest = max(devices, batch - batch % devices)
        raise InputError(
            f"{what} is {batch}, which {devices} devices cannot share evenly; take {nearest} or "
            f"{nearest + devices}, or start fewer devices"
        )


def all_devices() -> list[Device]:
    """The devices of all processes, by process, so that each one's rows of a batch are adjacent."""
    return sorted(jax.devices(), key=lambda device: device.process_index)


def data_parallel(
    step: PerDevice[State],
    devices: list[Device] | None = None,
    backend: Backend = "pmap",
) -> Callable[[State, Any], tuple[State, Any]]:
    """Compiles a per-device `step(state, batch) -> (state, metrics)` to run on all devices.

    Args:
        step: gets the whole state and its device's rows of the batch; it communicates through
            collectives over `AXIS`, and must return the same on every device.
        devices: default those of all processes.
        backend: pmap or shard_map, which give the same result; jax keeps the first for existing
            code and recommends the second.

    Returns:
        A function of the state, which has no device axis and is donated (do not use it again),
        and of the global batch [B, ...], whose rows are split over the devices in order. Each
        process passes the same batch, and its own copy of the state on its own devices.
    """
    devices = devices or all_devices()
    if backend == "pmap":
        program = mapped(step, devices)
        local = sum(device.process_index == jax.process_index() for device in devices)
        return lambda state, batch: program(state, _split(own_rows(batch, devices), local))
    mesh = Mesh(np.array(devices), (AXIS,))
    program = sharded(step, mesh)
    if jax.process_count() == 1:
        return program

    def joint(state: State, batch: Any) -> tuple[State, Any]:
        whole = multihost_utils.host_local_array_to_global_array(
            (state, own_rows(batch, devices)), mesh, (P(), P(AXIS))
        )
        return multihost_utils.global_array_to_host_local_array(program(*whole), mesh, P())

    return joint


def mapped(step: PerDevice[State], devices: list[Device]) -> Any:
    """The pmapped program of `data_parallel`: of the state and of a batch [devices, b, ...].

    It can be lowered for devices that are only described.
    """
    # None: the state has no device axis, as every device computes the same one.
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,  # pyright: ignore[reportArgumentType]
        donate_argnums=0,
        devices=devices,
    )


def sharded(step: PerDevice[State], mesh: Mesh) -> Any:
    """The shard_mapped program of `data_parallel`: of the state and of the global batch [B, ...].

    It can be lowered for devices that are only described.
    """
    # check_vma=False: else jax would sum the gradients by itself, and our psum once more.
    return jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(), check_vma=False),
        donate_argnums=0,
    )


def own_rows(batch: Tree, devices: list[Device]) -> Tree:
    """This process' rows [b, ...] of a global batch [B, ...] that is split over `devices`."""
    own = [i for i, d in enumerate(devices) if d.process_index == jax.process_index()]

    def rows(x: Any) -> Any:
        per_device = len(x) // len(devices)
        return x[own[0] * per_device : (own[-1] + 1) * per_device]

    return jax.tree.map(rows, batch)


def _split(batch: Tree, devices: int) -> Tree:
    """[B, ...] -> [devices, B / devices, ...]."""
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)


def replicate(tree: Tree, devices: list[Device] | None = None) -> Tree:
    """Copies every array to all devices of this process, so that no step has to."""

    def own_copy(x: Any) -> Any:
        # What jax 0.7's pmap returned has a sharding of its own, which several processes cannot put
        # elsewhere; each device holds the whole of it.
        several = jax.process_count() > 1 and isinstance(x, jax.Array)
        return x.addressable_data(0) if several and not isinstance(x.sharding, NamedSharding) else x

    return jax.device_put(jax.tree.map(own_copy, tree), NamedSharding(local_mesh(devices), P()))


def shard_rows(tree: Tree) -> Tree:
    """Spreads the rows [N, ...] of every array over this process' devices; they must divide N."""
    return jax.device_put(tree, NamedSharding(local_mesh(), P(AXIS)))


def local_mesh(devices: list[Device] | None = None) -> Mesh:
    """A mesh of this process' devices, default all of them, along `AXIS`."""
    return Mesh(np.array(devices or jax.local_devices()), (AXIS,))


def on_each_device(part: Callable[..., jax.Array], mesh: Mesh) -> Callable[..., jax.Array]:
    """Runs `part(params, *arrays)` on the devices of a mesh, each with its rows of the arrays.

    For use inside a jit. `part` returns rows [n, ...]; the result has those of all devices, in
    order.
    """

    def run_on_all(params: Any, *arrays: Any) -> jax.Array:
        specs = (P(), *(P(AXIS) for _ in arrays))
        # check_vma=False: jax need not prove which results are equal on all devices.
        run = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False)
        return run(params, *arrays)

    return run_on_all
