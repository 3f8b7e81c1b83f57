"""What devices send each other in a train step: bytes, counted in the compiled program.

Counted in a process with eight simulated devices: what a program sends follows from its shapes
alone, not from how fast or real the devices are.
"""

import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rocketjax.bench.measure import Answer, Fact, answer, worker_process
from rocketjax.bench.work import LOSS, constant_optimizer
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import EncoderConfig, Params
from rocketjax.models.pretrained import read_encoder_config
from rocketjax.runtime.devices import data_parallel
from rocketjax.text.batch import ListBatch, Rows, Text, Tokens
from rocketjax.text.rows import pack
from rocketjax.training.step import (
    Objective,
    TrainState,
    init_state,
    joint_objective,
    retriever_objective,
    train_step,
)

DEVICES = (1, 2, 4, 8)
ROWS, SLOTS, LENGTH = 8, 4, 16  # of the whole batch; few, for the parameters outweigh them anyway
FLAG = "--xla_force_host_platform_device_count=8"

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
# %name = f32[8,4]{1,0} all-reduce(...), or = (f32[8,4], f32[]) all-reduce(...)
COLLECTIVE = re.compile(
    r"= (?P<shapes>\([^)]*\)|\S+) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


class StageStep(NamedTuple):
    """A stage's train step."""

    params: Params  # shapes alone
    objective: Objective


def measure(weights: Path) -> Iterator[Fact]:
    """Bytes of the joint step and of the retriever's warm-up, on 1 to 8 devices.

    They should be the gradients', and in-batch the vectors' there and their gradients' back. On one
    device the program has the same collectives, and nothing is sent.
    """
    environment = os.environ | {"XLA_FLAGS": FLAG, "JAX_PLATFORMS": "cpu"}
    with worker_process("rocketjax.bench.collectives", weights, environment) as ask:
        for stage in ("joint", "warm-up"):
            for devices in DEVICES:
                counts = ask(f"{stage} {devices}")
                expected = counts["parameters"] + 2 * counts["vectors"]
                more = counts["sent"] - expected
                target = f"{expected / 1e6:,.3f} and scalars; {more} bytes more"
                name = f"{stage} step sends, {devices} devices"
                yield Fact(name, counts["sent"] / 1e6, "MB", target)


def sent(program: str, devices: int) -> dict[str, int]:
    """Bytes that the collectives of a compiled program (HLO) bring together, by their kind."""
    by_kind: dict[str, int] = {}
    for match in COLLECTIVE.finditer(program):
        size = sum(
            BYTES[dtype] * int(np.prod([int(n) for n in shape.split(",") if n]))
            for dtype, shape in SHAPE.findall(match["shapes"])
        )
        if match["kind"] == "reduce-scatter":  # what it yields is a device's share
            size *= devices
        by_kind[match["kind"]] = by_kind.get(match["kind"], 0) + size
    return by_kind


def main() -> None:
    """Answers how many bytes a stage's step sends on a number of devices."""
    config = read_encoder_config(Path(sys.argv[1]))
    steps = _stage_steps(config)

    def count(question: str) -> Answer:
        stage, devices = question.split()
        step = steps[stage]
        kinds = sent(_compiled(step, int(devices)), int(devices))
        parameters = sum(4 * leaf.size for leaf in jax.tree.leaves(step.params))
        vectors = 4 * ROWS * SLOTS * config.hidden_size if stage == "warm-up" else 0
        return {"sent": sum(kinds.values()), "parameters": parameters, "vectors": vectors, **kinds}

    answer(count)


def _stage_steps(config: EncoderConfig) -> dict[str, StageStep]:
    retriever = BiEncoder(config, shared=True, pooling="mean", normalize=True)
    reranker = CrossEncoder(config)
    one = np.ones((1, 1), np.int32)
    text = Tokens(one, one, one[0])
    de = jax.eval_shape(retriever.init, jax.random.key(0), text, text)["params"]
    ce = jax.eval_shape(reranker.init, jax.random.key(0), text)["params"]
    return {
        "joint": StageStep(
            {"retriever": de, "reranker": ce}, joint_objective(retriever, reranker, LOSS)
        ),
        "warm-up": StageStep({"retriever": de}, retriever_objective(retriever, LOSS)),
    }


def _compiled(stage: StageStep, devices: int) -> str:
    """The program's text."""
    optimizer = constant_optimizer()
    step = partial(train_step, objective=stage.objective, optimizer=optimizer)
    program: Any = data_parallel(step, jax.devices()[:devices], backend="shard_map")
    state: TrainState = jax.eval_shape(lambda p: init_state(p, optimizer, 1), stage.params)
    query, texts = (_texts(count, devices) for count in (ROWS, ROWS * SLOTS))
    relevant = np.zeros((ROWS, ROWS * SLOTS), bool)
    batch = ListBatch(query, texts, texts, np.ones((ROWS, SLOTS), bool), relevant)
    return program.lower(state, batch).compile().as_text()


def _texts(count: int, devices: int) -> Rows:
    text = Text(*np.zeros((2, LENGTH), np.int32))
    return pack([[text] * (count // devices)] * devices, LENGTH, 0, 0)


if __name__ == "__main__":
    main()
