"""The accelerators that a run is planned and compiled for, by their makers' data sheets."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

from rocketjax.runtime.devices import Device
from rocketjax.runtime.errors import InputError

MachineName: TypeAlias = Literal["v5e-1", "v5e-8", "v6e-1", "v6e-8", "v4-32", "h100"]


class Machine(NamedTuple):
    """The accelerators of a machine."""

    count: int
    peak: float  # of each, dense bfloat16 operations a second
    bandwidth: float  # of each, bytes a second between it and its own memory
    memory: float  # of each, bytes
    chunk: int = 0  # BERT base's texts of 160 tokens whose activations fit; 0: as the config says
    topology: str = ""  # by which libtpu describes the devices; empty: a GPU
    layout: Mapping[str, Any] = MappingProxyType({})  # what else it has to be told

    @property
    def tpu(self) -> bool:
        """Whether it is one."""
        return bool(self.topology)

    @property
    def platform(self) -> str:
        """What jax calls its devices."""
        return "tpu" if self.tpu else "gpu"

    @property
    def chip(self) -> str:
        """Of which generation its TPUs are; empty: no TPU."""
        return self.topology.partition(":")[0]


# All chips on one host; libtpu would take four for a host.
_ONE: dict[str, Any] = {"chips_per_host_bounds": [1, 1, 1]}
_EIGHT: dict[str, Any] = {"chips_per_host_bounds": [2, 4, 1]}
# A v4-32 has 32 cores on 16 chips, of which jax makes 16 devices, on four hosts.
_PAIRS: dict[str, Any] = {"chip_config_name": "megacore"}
# Chunks follow from docs/tpu.json: with 128, the joint steps of MS MARCO and NQ take 9.6 and 12.5
# of a v5e's 16 GB, and with 256 MS MARCO's takes 12.5 of a v4's 32. A test holds that every program
# in the table leaves a tenth of its chip.
MACHINES: dict[str, Machine] = {
    "v5e-1": Machine(1, 197e12, 819e9, 16e9, 128, "v5e:1x1", _ONE),
    "v5e-8": Machine(8, 197e12, 819e9, 16e9, 128, "v5e:2x4", _EIGHT),
    "v6e-1": Machine(1, 918e12, 1_640e9, 32e9, 256, "v6e:1x1", _ONE),
    "v6e-8": Machine(8, 918e12, 1_640e9, 32e9, 256, "v6e:2x4", _EIGHT),
    "v4-32": Machine(16, 275e12, 1_228e9, 32e9, 256, "v4:2x2x4", _PAIRS),
    "h100": Machine(1, 989e12, 3_350e9, 80e9),
}


# What XLA asks of an H100 (SXM5), by NVIDIA's data sheet and the CUDA programming guide's table of
# compute capability 9.0. cuDNN's attention needs at least the version named here.
_H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 12 minor: 9 }
dnn_version_info { major: 9 minor: 8 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3350000000000
  device_memory_size: 80000000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""
# Without the GPU nothing can be timed, and XLA's own products would have tiles that nobody chose:
# so all are cuBLAS's. A GPU runs that very program if XLA_FLAGS say the same.
UNTIMED: dict[str, Any] = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}

# libtpu must not look for a TPU, nor complain that it finds none, nor lock one that is there.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def describe(name: str) -> list[Device]:
    """Devices that need not be there: programs can be compiled for them, not run.

    Raises:
        InputError: no compiler for them is installed, or it does not know the machine.
    """
    import jax
    from jax.experimental import topologies

    machine = MACHINES[name]
    compiler(name)
    asked = {"topology": "1x1x1", "target_config": _H100}
    if machine.tpu:
        asked = dict(machine.layout)
        for variable, value in _NO_TPU.items():
            os.environ.setdefault(variable, value)
    try:
        described = topologies.get_topology_desc(
            platform="tpu" if machine.tpu else "cuda",
            topology_name=machine.topology or name,
            **asked,
        )
    except jax.errors.JaxRuntimeError as error:
        first = str(error).partition("\n")[0]
        raise InputError(f"jax's compiler does not describe {name}: {first}") from error
    return sorted(described.devices, key=lambda device: device.process_index)


def compiler(name: str) -> str:
    """What compiles for a machine, and in which version.

    Raises:
        InputError: it is not installed.
    """
    tpu = MACHINES[name].tpu
    for package in ("libtpu",) if tpu else ("jax-cuda12-pjrt", "jax-cuda13-pjrt"):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    raise InputError(
        f"the compiler for {name} is not installed; in an environment of its own: pip install "
        f"'rocketjax[{'tpu' if tpu else 'cuda12'}]' (a {'TPU' if tpu else 'GPU'} is not needed)"
    )


@contextmanager
def compiling() -> Iterator[None]:
    """Within its block programs are lowered and compiled for described devices, with any jax.

    Older than 0.8, jax asks the devices afterwards for their default layouts, which those that are
    only described do not know: the process would crash. Nothing of what is compiled depends on it.
    And it asks the devices that are there, not those described, how old libtpu is: a kernel is
    written in the version that Colab's reads, as it would be there.
    """
    import jax
    from jax._src import tpu_custom_call as kernels
    from jax._src.interpreters import pxla

    asked, ir_version = pxla.is_default_layout, getattr(kernels, "get_ir_version", None)
    if jax.__version_info__ < (0, 8):
        pxla.is_default_layout = lambda *_: True
        kernels.get_ir_version = lambda _: 7
    try:
        with warnings.catch_warnings():
            # Donated memory that no result can take; pmap's, of jax 0.7.
            warnings.filterwarnings("ignore", message="Some donated buffers")
            yield
    finally:
        pxla.is_default_layout = asked
        if jax.__version_info__ < (0, 8):
            kernels.get_ir_version = ir_version
