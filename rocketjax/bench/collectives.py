"""What devices send each other in a train step: bytes, counted in the compiled program.

Run as a process with eight simulated devices: what a program sends follows from its shapes alone,
not from how fast or real the devices are.
"""

import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rocketjax.bench.measure import Fact, answer, asked
from rocketjax.config.loss import LossConfig
from rocketjax.config.schema import OptimizerConfig
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.pretrained import read_encoder_config
from rocketjax.runtime.devices import data_parallel
from rocketjax.text.batch import ListBatch, Tokens
from rocketjax.training.losses import joint_weights
from rocketjax.training.optimizer import make_optimizer
from rocketjax.training.step import (
    TermsOf,
    TrainState,
    init_state,
    joint_terms_of,
    retriever_terms_of,
    train_step,
)

DEVICES = (1, 2, 4, 8)


ROWS, SLOTS, LENGTH = 8, 4, 16  # of the whole batch; few, for the parameters outweigh them anyway


FLAG = "--xla_force_host_platform_device_count=8"


SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}


# %name = f32[8,4]{1,0} all-reduce(...), or = (f32[8,4], f32[]) all-reduce(...)
COLLECTIVE = re.compile(
    r"= (?P<shapes>\([^)]*\)|\S+) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


def measure(weights: Path) -> Iterator[Fact]:
    """Bytes of the joint step and of the retriever's warm-up, on 1 to 8 devices.

    They should be the gradients', and in-batch the vectors' there and their gradients' back. On one
    device the program names the same ones, and nothing moves.
    """
    environment = os.environ | {"XLA_FLAGS": FLAG, "JAX_PLATFORMS": "cpu"}
    with asked("rocketjax.bench.collectives", weights, environment) as ask:
        for stage in ("joint", "warm-up"):
            for devices in DEVICES:
                found = ask(f"{stage} {devices}")
                expected = found["parameters"] + 2 * found["vectors"]
                target = f"{expected / 1e6:,.3f} and scalars; {found['sent'] - expected} bytes more"
                name = f"{stage} step sends, {devices} devices"
                yield Fact(name, found["sent"] / 1e6, "MB", target)


def sent(program: str, devices: int) -> dict[str, int]:
    """Bytes of what the collectives of a compiled program (HLO) bring together, by their kind."""
    found: dict[str, int] = {}
    for match in COLLECTIVE.finditer(program):
        size = sum(
            SIZES[dtype] * int(np.prod([int(n) for n in shape.split(",") if n]))
            for dtype, shape in SHAPE.findall(match["shapes"])
        )
        if match["kind"] == "reduce-scatter":  # what it yields is a device's share
            size *= devices
        found[match["kind"]] = found.get(match["kind"], 0) + size
    return found


def main() -> None:
    """Answers what a stage's step sends on so many devices."""
    config = read_encoder_config(Path(sys.argv[1]))
    retriever = BiEncoder(config, shared=True, pooling="mean", normalize=True)
    reranker = CrossEncoder(config)
    loss = LossConfig(retriever_temperature=0.05)
    text = _tokens(1)
    de = jax.eval_shape(retriever.init, jax.random.key(0), text, text)["params"]
    ce = jax.eval_shape(reranker.init, jax.random.key(0), text)["params"]
    stages = {
        "joint": (
            {"retriever": de, "reranker": ce},
            joint_terms_of(retriever, reranker, loss),
            joint_weights(loss),
        ),
        "warm-up": ({"retriever": de}, retriever_terms_of(retriever, 0.05), {"retriever": 1}),
    }

    def count(question: str) -> dict[str, Any]:
        stage, devices = question.split()
        params, terms, weights = stages[stage]
        program = _compiled(params, terms, weights, int(devices))
        kinds = sent(program, int(devices))
        held = sum(4 * x.size for x in jax.tree.leaves(params))
        vectors = 4 * ROWS * SLOTS * config.hidden_size if stage == "warm-up" else 0
        return {"sent": sum(kinds.values()), "parameters": held, "vectors": vectors, **kinds}

    answer(count)


def _compiled(params: Any, terms: TermsOf, weights: Any, devices: int) -> str:
    optimizer = make_optimizer(OptimizerConfig(schedule="constant", warmup=0.0), 1_000)
    step = partial(train_step, terms_of=terms, weights=weights, optimizer=optimizer)
    program: Any = data_parallel(step, jax.devices()[:devices], backend="shard_map")
    state: TrainState = jax.eval_shape(lambda p: init_state(p, optimizer, 1), params)
    texts, shape = _tokens(ROWS, SLOTS), (ROWS, SLOTS)
    valid, passages, queries = np.ones(shape, bool), np.zeros(shape, np.int32), np.arange(ROWS)
    batch = ListBatch(_tokens(ROWS), texts, texts, valid, passages, queries.astype(np.int32))
    return program.lower(state, batch).compile().as_text()


def _tokens(*shape: int) -> Tokens:
    ids = np.zeros((*shape, LENGTH), np.int32)
    return Tokens(ids, ids, np.ones(shape, np.int32))


if __name__ == "__main__":
    main()
