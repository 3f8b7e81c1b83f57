"""Eight simulated devices for every test: set before anything imports jax."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_llvm_disable_expensive_passes=true"  # many small programs, each run but a few times
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the tests prove correctness, not speed
os.environ.setdefault("HF_HUB_OFFLINE", "1")
