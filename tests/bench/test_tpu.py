"""Programs compiled for described TPUs: how their text is read, the table, and what is in them."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import transformers
from jax.sharding import Mesh
from tiny import as_texts, laid_out, models, tokens

from rocketjax.bench import compiled, plan, tpu
from rocketjax.bench.hlo import Program
from rocketjax.bench.machines import MACHINES
from rocketjax.bench.programs import TRAINING, Target, lower, programs_of
from rocketjax.bench.recipes import recipes
from rocketjax.bench.shapes import lists, shape_of
from rocketjax.bench.stages import trained
from rocketjax.config.options import load, merged
from rocketjax.inference.model import apply
from rocketjax.runtime.devices import AXIS
from rocketjax.runtime.errors import InputError

ROOT = Path(__file__).parents[2]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the extra `tpu` brings libtpu"
)
needs_cuda = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None, reason="the extra `cuda12` brings it"
)

# Four times: a product of bf16[256,256] with a slice of four, whose result is copied; b is in the
# core's own memory, S(1). Once: a reduction over two devices.
HLO = """\
HloModule jit_run

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused (a: bf16[256,256], w: bf16[4,256,256]) -> bf16[256,256] {
  %a = bf16[256,256]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[4,256,256]{2,1,0:T(8,128)(2,1)} parameter(1)
  %slice = bf16[256,256]{1,0:T(8,128)(2,1)} dynamic-slice(%w), dynamic_slice_sizes={1,256,256}
  ROOT %dot = bf16[256,256]{1,0:T(8,128)(2,1)} convolution(%a, %slice), dim_labels=bf_io->bf
}

%condition (p: (s32[], bf16[256,256])) -> pred[] {
  %p = (s32[]{:T(128)}, bf16[256,256]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %four = s32[]{:T(128)} constant(4)
  ROOT %less = pred[]{:T(512)} compare(%i, %four), direction=LT
}

%body (p: (s32[], bf16[256,256], bf16[4,256,256], f32[512,768])) -> (s32[], bf16[256,256]) {
  %p = (s32[], bf16[256,256]{1,0:T(8,128)(2,1)}) parameter(0)
  %a = bf16[256,256]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %w = bf16[4,256,256]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p), index=2
  %f = f32[512,768]{1,0:T(8,128)} get-tuple-element(%p), index=3
  %b = f32[512,768]{1,0:T(8,128)S(1)} get-tuple-element(%p), index=4
  %product = bf16[256,256]{1,0:T(8,128)(2,1)} fusion(%a, %w), kind=kOutput, calls=%fused
  %copy = f32[512,768]{0,1:T(8,128)} copy(%f), metadata={op_name="jit(run)/while/body/transpose"}
  %wide = f32[8,128]{1,0:T(8,128)S(1)} convolution(%b, %b), dim_labels=bf_io->bf, \
operand_precision={highest,highest}, metadata={op_name="jit(run)/while/body/dot_general"}
  ROOT %out = (s32[], bf16[256,256]{1,0:T(8,128)(2,1)}) tuple(%a, %product)
}

ENTRY %main (x: bf16[256,256]) -> f32[100] {
  %x = bf16[256,256]{1,0:T(8,128)(2,1)} parameter(0)
  %loop = (s32[], bf16[256,256]) while(%x), condition=%condition, body=%body
  %grads = f32[100]{0:T(1024)} get-tuple-element(%loop), index=1
  ROOT %all = f32[100]{0:T(1024)} all-reduce(%grads), replica_groups={{0,1}}, to_apply=%add
}
"""


def test_a_programs_text_says_what_it_moves():
    program = Program(HLO)
    outside, loop = program.loops()
    matrix, wide = 2 * 256 * 256, 4 * 512 * 768
    # Of the weights a step reads its own slice; the copy reads and writes all.
    assert (loop.times, loop.moved) == (4, 3 * matrix + 2 * wide)
    assert outside.moved == 2 * 4 * 1024  # f32[100] in tiles of 1,024
    assert program.moved == outside.moved + 4 * loop.moved
    assert program.copies() == [("f32[512,768] transpose", 2 * wide)]
    assert program.wide_products() == ["dot_general"]
    assert program.scatters() == 0
    assert program.collectives() == {"all-reduce": (1, 400.0)}
    assert Program(HLO.replace("highest,highest", "default")).wide_products() == []
    assert Program(HLO.replace("copy(%f)", "scatter(%f, %f)")).scatters() == 1
    apart = HLO.replace("}\n\n%body", '}, execution_thread="sparsecore"\n\n%body')
    assert apart != HLO and Program(apart).loops() == program.loops()


# Three times on a GPU: cuBLAS's product, with room to work in, of which a fusion turns the result.
OF_A_GPU = """\
HloModule jit_run

%turned (a: bf16[1024,512]) -> bf16[512,1024] {
  %a = bf16[1024,512]{1,0} parameter(0)
  ROOT %t = bf16[512,1024]{1,0} transpose(%a), dimensions={1,0}
}

%body (p: (bf16[1024,256], bf16[256,512])) -> (bf16[1024,256], bf16[256,512]) {
  %p = (bf16[1024,256]{1,0}, bf16[256,512]{1,0}) parameter(0)
  %a = bf16[1024,256]{1,0} get-tuple-element(%p), index=0
  %w = bf16[256,512]{1,0} get-tuple-element(%p), index=1
  %product = (bf16[1024,512]{1,0}, s8[33554432]{0}) custom-call(%a, %w), \
custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(run)/while/body/dot_general"}
  %x = bf16[1024,512]{1,0} get-tuple-element(%product), index=0
  %input_transpose_fusion = bf16[512,1024]{1,0} fusion(%x), kind=kInput, calls=%turned
  ROOT %out = (bf16[1024,256]{1,0}, bf16[256,512]{1,0}) tuple(%a, %w)
}

ENTRY %main (x: (bf16[1024,256], bf16[256,512])) -> (bf16[1024,256], bf16[256,512]) {
  %x = (bf16[1024,256]{1,0}, bf16[256,512]{1,0}) parameter(0)
  ROOT %loop = (bf16[1024,256]{1,0}, bf16[256,512]{1,0}) while(%x), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_a_gpus_text_says_what_it_moves_and_starts():
    program = Program(OF_A_GPU)
    given, result = 2 * (1024 * 256 + 256 * 512), 2 * 1024 * 512
    assert program.moved == 3 * (given + result + 2 * result)  # not what cuBLAS may work in
    assert program.kernels == 3 * 2
    assert program.copies() == [("bf16[512,1024] input_transpose_fusion", 2 * result)]
    assert program.wide_products() == []
    assert Program(OF_A_GPU.replace("bf16[", "f32[")).wide_products() == ["dot_general"]


@pytest.fixture(scope="module")
def table():
    return compiled.read(compiled.TABLE)


def test_the_package_has_the_table_of_the_docs():
    assert compiled.TABLE.read_bytes() == (ROOT / "docs" / "tpu.json").read_bytes()


def test_every_recipe_fits_every_machine(table):
    """Every program of a run was compiled in the shapes that the recipe has now, and has room.

    `machines.py` has chunks by which it is so: a tenth of a chip's memory is left.
    """
    missing: dict[str, list[str]] = {}
    for machine in (name for name, m in MACHINES.items() if m.tpu):
        for name in recipes():
            config = load(Path(name))
            for program in programs_of(config, MACHINES[machine]):
                entry, what = compiled.find(table, name, machine, program), (machine, name, program)
                if not entry:
                    missing.setdefault(f"{machine} {name}", []).append(program)
                    continue
                shape = shape_of(config, MACHINES[machine], program)
                assert entry.shape == shape, f"{what} has changed: compile it again"
                assert not entry.refused and entry.memory > 0, (what, entry.refused)
                assert entry.memory <= 0.9 * MACHINES[machine].memory, (what, entry.memory / 1e9)
                assert re.match(r"jax [\d.]+, libtpu [\d.]+$", entry.versions), what
    if missing:
        named = "; ".join(f"{where}: {', '.join(some)}" for where, some in missing.items())
        pytest.skip(f"python -m rocketjax.bench.tpu --json docs/tpu.json has not compiled {named}")


def test_ms_marcos_joint_step_leaves_a_quarter_of_a_v5e(table):
    entry = compiled.find(table, "msmarco", "v5e-1", "joint")
    assert entry and "chunk 128," in entry.shape and entry.memory <= 12e9


@pytest.mark.parametrize(("machine", "least"), [("v5e-1", 0.96), ("v5e-8", 0.94), ("v4-32", 0.94)])
def test_a_joint_steps_slots_hold_text(machine, least):
    """At MS MARCO's lengths; all devices have the slots of the one with most."""
    config = load(Path("msmarco"))
    step = lists(config, MACHINES[machine], trained(config)["joint"])
    slots = sum(rows.ids.size for rows in step.arrays[:3]) / MACHINES[machine].count
    assert least < step.tokens / slots < 1


@pytest.mark.parametrize("method", ["encode_query", "__call__"])
def test_devices_that_read_texts_exchange_nothing(method):
    """So the table has one device's program, which is that of each device of such a chip."""
    retriever, reranker, params = models()
    module, name = (reranker, "reranker") if method == "__call__" else (retriever, "retriever")
    mesh = Mesh(np.array(jax.devices()[:2]), (AXIS,))
    rows = laid_out(as_texts(tokens(np.random.default_rng(0), 8)), 2, 0, [32])
    program = apply.lower(module, method, mesh, params[name], rows).compile().as_text()
    assert Program(program).collectives() == {} and "num_partitions=2" in program


def test_a_run_that_devices_cannot_share_has_no_programs():
    config = load(Path("demo"))  # of eight lists
    assert "joint" in programs_of(config, MACHINES["v5e-8"])
    assert programs_of(config, MACHINES["v4-32"]) == []


def test_the_plan_takes_its_memory_from_the_table(tmp_path, monkeypatch):
    config, machine = load(Path("msmarco")), MACHINES["v5e-1"]
    entries = [
        compiled.Entry(
            "msmarco", "v5e-1", program, "", shape_of(config, machine, program), "", memory=size
        )
        for program, size in (("joint", 13e9), ("pairs", 2e9), ("search", 9e9))
    ]
    compiled.write(tmp_path / "tpu.json", entries)
    monkeypatch.setattr(compiled, "TABLE", tmp_path / "tpu.json")
    options = plan.Plan("msmarco", "v5e-1", chunk=128)
    planned = {s.name: s for s in plan.stages(config, options)}
    assert (planned["joint"].memory, planned["joint"].compiled) == (13e9, True)
    towers = 2 * 4 * 108_891_648  # the retriever's, beside the pairs and the corpus
    assert (planned["mine"].memory, planned["mine"].compiled) == (11e9 + towers, True)
    assert not planned["encode"].compiled  # it has no entry
    longer = dataclasses.replace(config, text=dataclasses.replace(config.text, pair_length=200))
    changed = {s.name: s for s in plan.stages(longer, options)}
    assert not changed["joint"].compiled and changed["joint"].memory < 13e9  # the formula's
    whole = dataclasses.replace(options, chunk=0)  # the recipe's 256, for which there is no entry
    assert not list(plan.stages(config, whole))[4].compiled


def test_hours_add_up():
    config = load(Path("msmarco"))
    entry = compiled.Entry("msmarco", "v5e-8", "joint", "pmap", "", "", seconds=2.0)
    passages = dataclasses.replace(entry, program="passages", tokens=1000.0, seconds=0.5)
    found = compiled.hours(config, "msmarco", "v5e-8", [entry, passages])
    assert found["joint"] == pytest.approx(10478 * 2.0 / 3600)
    # 70.5 tokens on average; eight devices read 2,000 a second each.
    assert found["encode"] == pytest.approx(8_841_823 * 70.5 / 16_000 / 3600)
    assert "mine" not in found  # pairs are not in the table


@pytest.mark.parametrize(
    ("index", "truncate", "of_a_vector", "best"),
    [
        ({"dtype": "bfloat16"}, 0, 2 * 384, 64),
        ({"dtype": "float32"}, 100, 4 * 100, 64),
        ({"dtype": "int8"}, 0, 384 + 4, 128),
        ({"dtype": "binary", "rescore": 4}, 100, 13 + 4, 256),
    ],
)
def test_the_search_is_of_vectors_as_they_are_stored(index, truncate, of_a_vector, best):
    config = merged(load(Path("demo")), {"index": index, "retriever": {"truncate": truncate}})
    machine = MACHINES["v5e-1"]
    program = lower(Target(config, machine, jax.devices()[:1], "shard_map"), "search").program
    shapes = jax.tree.leaves(program.in_avals)
    rows = max(shape.shape[0] for shape in shapes if shape.shape)
    stored = [shape for shape in shapes if shape.shape[:1] == (rows,)]
    assert sum(shape.size * shape.dtype.itemsize for shape in stored) == rows * of_a_vector
    assert program.out_info[0].shape == (256, best)
    assert f"{truncate or 384} {index['dtype']}" in shape_of(config, machine, "search")


@pytest.mark.parametrize("parallel", ["pmap", "shard_map"])
@pytest.mark.parametrize("program", TRAINING)
def test_batches_that_devices_cannot_share_are_refused_before_compiling(parallel, program):
    config = load(Path("msmarco"))
    stages = {
        name: dataclasses.replace(getattr(config, name), batch=12)
        for name in ("retriever_warmup", "reranker_warmup", "joint")
    }
    odd = dataclasses.replace(config, **stages)
    target = Target(odd, MACHINES["v5e-8"], jax.devices()[:1] * 8, parallel)
    with pytest.raises(InputError, match=r"batch is 12, which 8 devices .*; take 8 or 16"):
        lower(target, program)


@pytest.mark.parametrize(("machine", "extra"), [("v5e-1", "tpu"), ("h100", "cuda12")])
def test_without_a_compiler_one_line_says_what_to_install(machine, extra, monkeypatch, capsys):
    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr("rocketjax.bench.machines.version", missing)
    assert tpu.main(["--machines", machine]) == 2
    assert f"pip install 'rocketjax[{extra}]'" in capsys.readouterr().err.replace("\n", " ")


def bench(tmp_path, *args, **env):
    """The entries of a command in a process of its own, which must see no simulated devices."""
    path = tmp_path / "table.json"
    command = [sys.executable, "-m", "rocketjax.bench.tpu", "--json", str(path), *args]
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""} | env
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(path.read_text())["entries"]
    return {(row["program"], row["parallel"]): compiled.Entry(**row) for row in rows}


@needs_libtpu
@pytest.mark.slow
def test_a_host_that_starts_again_looks_for_the_same_programs(tmp_path):
    """By their keys in the persistent cache; to load what it finds, a host needs its TPU."""
    args = ("--machines", "v5e-1", "--configs", "demo", "--programs", "queries", "--layers", "2")
    programs = tmp_path / "programs"
    env = {"JAX_COMPILATION_CACHE_DIR": str(programs)}
    first = bench(tmp_path, *args, **env)["queries", ""]
    kept = sorted(path.name for path in programs.iterdir())
    (tmp_path / "table.json").unlink()
    again = bench(tmp_path, *args, **env)["queries", ""]
    assert sum(name.startswith("jit_apply-") for name in kept) == 1
    assert sorted(path.name for path in programs.iterdir()) == kept
    assert dataclasses.replace(again, compile_seconds=first.compile_seconds) == first


@needs_libtpu
@pytest.mark.slow
def test_programs_take_no_more_than_the_table_says(tmp_path, table):
    """With Colab's older jax they compile, and fit; what they take may differ there."""
    args = ("--machines", "v5e-1", "--configs", "msmarco_small", "--parallel", "shard_map")
    found = bench(tmp_path, *args, "--programs", "passages", "pairs", "warm-reranker")
    assert len(found) == 3
    for entry in found.values():
        assert entry.fits and not entry.wide_products, entry
        known = compiled.find(table, "msmarco_small", "v5e-1", entry.program)
        if known and known.versions == entry.versions:
            assert entry.copies <= known.copies and entry.scatters <= known.scatters, entry
            assert entry.memory == pytest.approx(known.memory, rel=0.1), entry.program
            assert entry.per_token == pytest.approx(known.per_token, rel=0.1), entry.program


@needs_cuda
@pytest.mark.slow
def test_programs_compile_for_a_gpu_that_is_not_there(tmp_path):
    args = ("--machines", "h100", "--configs", "squad", "--layers", "2")
    found = bench(tmp_path, *args, "--programs", "queries", "pairs")
    assert set(found) == {("queries", ""), ("pairs", "")}
    for entry in found.values():
        assert entry.fits and entry.moved > 0 and entry.kernels > 20, entry


@needs_libtpu
@pytest.mark.slow
def test_several_hosts_programs_compile_and_sum_over_all_chips(tmp_path):
    args = ("--machines", "v4-32", "--configs", "msmarco_small", "--layers", "1")
    both = ("--parallel", "pmap", "shard_map", "--programs", "joint")
    found = bench(tmp_path, *args, *both)
    assert set(found) == {("joint", "pmap"), ("joint", "shard_map")}
    for entry in found.values():
        assert entry.fits and entry.collectives["all-reduce"][1] > 2 * 4 * 23e6 / 4


# Those whose attention no recipe's models have; BERT, XLM-R and ModernBERT are in the table.
FAMILIES = {
    "DebertaV2Config": {
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_buckets": 256,
        "type_vocab_size": 0,
    },
    "MPNetConfig": {},
    "ElectraConfig": {"embedding_size": 128, "num_attention_heads": 12},
}


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_attention_compiles_forward_and_backward(tmp_path, family):
    sizes = {"hidden_size": 768, "intermediate_size": 3_072, "num_hidden_layers": 2}
    of_family = getattr(transformers, family)(**sizes, **FAMILIES[family])
    of_family.save_pretrained(tmp_path / "weights")
    text = (ROOT / "configs" / "msmarco_small.yaml").read_text()
    for model in ("retriever", "reranker"):
        weights = f"{model}: {{weights: {tmp_path / 'weights'}, dropout: 0.1}}"
        text = text.replace(f"{model}: {{dropout: 0.1}}", weights)
    config = tmp_path / "family.yaml"
    config.write_text(text)
    args = ("--machines", "v5e-1", "--configs", str(config))
    found = bench(tmp_path, *args, "--programs", "passages", "warm-reranker")
    assert {program for program, _ in found} == {"passages", "warm-reranker"}
    assert all(entry.fits for entry in found.values()), found
    # A head multiplies one state a text, in float32.
    wide = {name for entry in found.values() for name in entry.wide_products}
    assert all("/pooler/" in name for name in wide), wide
