"""Two simulated devices for every test: set before anything imports jax."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
import weakref
from importlib.metadata import version

import pytest
from hypothesis import HealthCheck, settings

# XLA ends a process whose flags it does not know, and each jaxlib knows others.
JAXLIB = tuple(int(part) for part in version("jaxlib").split(".")[:2])
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=2"
    # Many small programs, each run but a few times: compiling them is what takes the time.
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_parallel_codegen_split_count=1"
    + (" --xla_cpu_use_fusion_emitters=false" if JAXLIB < (0, 11) else "")
    # On a busy machine, devices wait for each other longer than XLA's 40 s.
    + (" --xla_cpu_collective_call_warn_stuck_timeout_seconds=120" if JAXLIB >= (0, 10) else "")
    + (" --xla_cpu_collective_call_terminate_timeout_seconds=600" if JAXLIB >= (0, 10) else "")
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the tests prove correctness, not speed
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Where programs are kept (keep_programs, and tests of whole processes), even the smallest are.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["ROCKETJAX_CACHE"] = tempfile.mkdtemp(prefix="rocketjax-tests-")
atexit.register(shutil.rmtree, os.environ["ROCKETJAX_CACHE"], ignore_errors=True)

# A shell's `pytest &` ignores it, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is slow, which says nothing of the code; tmp_path is written anew in each example.
settings.register_profile(
    "rocketjax",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("rocketjax")


# Files that take longest, the longest first: a worker that began one last would end alone.
LONGEST = (
    "test_pipeline.py",
    "test_step.py",
    "test_hosts.py",
    "test_ablation.py",
    "test_kill.py",
    "test_gs.py",
    "test_notebooks.py",
    "test_commands.py",
    "test_serving.py",
    "test_bench.py",
)


def pytest_collection_modifyitems(items):
    """The longest files first; the others in their order."""
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(autouse=True, scope="session")
def keep_programs(tmp_path_factory):
    """A program that an earlier test compiled is read from a file, not compiled again.

    Tests build the same models over and over; compiling them is most of what the suite takes.
    Each worker of pytest-xdist keeps its own: jax does not write these files atomically, so one
    worker could read half of what another is writing.
    """
    import jax  # not before the devices are set

    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))


@pytest.fixture(autouse=True, scope="module")
def free_programs():
    """Drops a module's compiled programs: together they would pass the limit of memory maps.

    Each program that XLA compiles for CPU holds a few maps, Linux allows a process 65,530
    (vm.max_map_count), and the compiler dies of a segmentation fault where one more is refused.
    """
    yield
    import jax  # not before the devices are set

    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder of random weights."""
    from on_disk import make_weights  # not before the devices are set

    return make_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def collection(tmp_path_factory):
    """A BEIR folder of 60 passages and queries."""
    from on_disk import make_topics

    return make_topics(tmp_path_factory.mktemp("topics"))


@pytest.fixture(scope="session")
def library():
    """What model folders of others are compared with."""
    return pytest.importorskip(
        "sentence_transformers", reason="the extra `parity` brings sentence-transformers"
    )


@pytest.fixture(scope="module")
def one_device():
    """As on most machines that serve a page; simulated ones share a core, and are slow."""
    import jax  # not before the devices are set

    some = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: some)
        patch.setattr(jax, "devices", lambda: some)
        yield


class Kept(list):
    """A ranking of which is known whether anyone still holds it."""


@pytest.fixture
def searches(monkeypatch):
    """At each search, for 50 queries: how many rankings of earlier ones are still in memory."""
    from rocketjax.retrieval import ranking

    search_vectors, counts, kept = ranking.search_vectors, [], []

    def counted(*args):
        counts.append(sum(ref() is not None for ref in kept))
        found = {query: Kept(ranked) for query, ranked in search_vectors(*args).items()}
        kept.extend(map(weakref.ref, found.values()))
        return found

    monkeypatch.setattr(ranking, "search_vectors", counted)
    monkeypatch.setattr(ranking, "QUERIES_AT_ONCE", 50)
    monkeypatch.setattr(ranking, "AT_ONCE", 64)
    return counts
