"""The programs of a run, lowered for devices that need not be there: the package's own."""

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rocketjax.bench.machines import Machine
from rocketjax.bench.recipes import encoder_of, pooling_of, sizes_of
from rocketjax.bench.shapes import (
    KIND_OF,
    Batch,
    chunk_of,
    lists,
    searched,
    texts,
    vector_bytes,
    vector_width,
)
from rocketjax.bench.stages import Kind, trained
from rocketjax.config.loss import resolve_loss
from rocketjax.config.schema import Config, StageConfig
from rocketjax.inference.model import apply
from rocketjax.inference.start import make_compute
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import EncoderConfig, Params
from rocketjax.models.heads import has_own_pooler
from rocketjax.retrieval.exact import QUERIES, SHARE_OF_MEMORY, cut, few, search_piece
from rocketjax.retrieval.quantised import Codes, code_width, is_quantised
from rocketjax.retrieval.vectors import DTYPES
from rocketjax.runtime.devices import AXIS, Backend, Device, check_divisible, mapped, sharded
from rocketjax.text.batch import Tokens, chunk_count
from rocketjax.training.optimizer import make_optimizer
from rocketjax.training.step import (
    Objective,
    init_state,
    joint_objective,
    reranker_objective,
    retriever_objective,
    train_step,
)

Program: TypeAlias = Literal[
    "queries", "passages", "pairs", "search", "warm-retriever", "warm-reranker", "joint"
]
PROGRAMS: tuple[Program, ...] = get_args(Program)
TRAINING = ("warm-retriever", "warm-reranker", "joint")


class Lowered(NamedTuple):
    """A program that only needs compiling, and what one device does in it."""

    program: Any  # jax's Lowered
    tokens: float  # real ones; of search, 0
    layers: int  # that a token goes through
    flops: float  # of matrix products, chunks that run again and padding included


class Target(NamedTuple):
    """What programs are lowered for."""

    config: Config
    machine: Machine
    devices: list[Device]  # of all hosts, by host
    parallel: Backend
    layers: int = 0  # of the encoders, for quick checks; 0: as the weights have

    def encoder(self, weights: str) -> EncoderConfig:
        """The shape of an encoder that starts from these weights."""
        whole = encoder_of(weights)
        return dataclasses.replace(whole, num_layers=self.layers or whole.num_layers)

    @property
    def models(self) -> tuple[BiEncoder, CrossEncoder]:
        """The retriever and the re-ranker, as they train."""
        config, platform = self.config, self.devices[0].platform
        retriever, reranker = config.retriever, config.reranker
        return (
            BiEncoder(
                self.encoder(retriever.weights),
                make_compute(config.compute, retriever.dropout, platform),
                shared=retriever.towers == "shared",
                pooling=pooling_of(config),
                normalize=bool(retriever.normalize),
                truncate=retriever.truncate or 0,
            ),
            CrossEncoder(
                self.encoder(reranker.weights),
                make_compute(config.compute, reranker.dropout, platform),
                pooler=has_own_pooler(encoder_of(reranker.weights)),
            ),
        )


def programs_of(config: Config, machine: Machine) -> list[Program]:
    """Those that a run consists of: none of a stage without steps.

    Where the devices cannot share a stage's batch there is no run, and so no program.
    """
    steps = {name: stage.options for name, stage in trained(config).items() if stage.options.steps}
    if any(options.batch % machine.count for options in steps.values()):
        return []
    return [name for name in PROGRAMS if name not in TRAINING or name in steps]


def lower(target: Target, name: Program) -> Lowered:
    """Lowers one of a run's programs.

    Raises:
        InputError: a batch that the devices cannot share.
    """
    if name in TRAINING:
        return _trained(target, name)
    if name == "search":
        return _search(target)
    method = {"queries": "encode_query", "passages": "encode_passage", "pairs": "__call__"}[name]
    return _encoded(target, KIND_OF[name], method)


def _encoded(target: Target, kind: Kind, method: str) -> Lowered:
    """A batch of texts through a model, on one device.

    Further devices run the same program on other texts, and exchange nothing.
    """
    retriever, reranker = target.models
    module = reranker if kind == "pair" else retriever
    mesh = Mesh(np.array(target.devices[:1]), (AXIS,))
    batch = texts(target.config, kind, target.machine, mesh.size)
    params = _placed(_params(module), mesh, P())
    program = apply.lower(module, method, mesh, params, _placed(batch.arrays, mesh, P(AXIS)))
    return Lowered(program, batch.tokens, module.config.num_layers, batch.flops)


def _search(target: Target) -> Lowered:
    """The best passages of a block of queries, in all of the corpus that fits the devices."""
    config = target.config
    mesh = Mesh(np.array(target.devices), (AXIS,))
    width, stored = vector_width(config), config.index.dtype
    count = sizes_of(config).passages
    k = few(min(searched(config), count), count)
    memory = int(SHARE_OF_MEMORY * target.machine.memory)
    block, piece = cut(count, vector_bytes(config), mesh.size, memory)

    def array(shape: tuple[int, ...], dtype: Any, spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    quantised = is_quantised(stored)
    numbers = code_width(width, stored) if quantised else width
    vectors = array((piece, numbers), jnp.dtype(DTYPES[stored]), P(AXIS))
    if quantised:
        vectors = Codes(vectors, array((piece,), jnp.float32, P(AXIS)))
    queries = array((QUERIES, width), jnp.int8 if quantised else jnp.float32, P())
    rows, scores = (array((QUERIES, k), dtype, P()) for dtype in (jnp.int32, jnp.float32))
    place = array((), jnp.int32, P())
    program = search_piece.lower(mesh, block, queries, vectors, (place, place), (rows, scores))
    return Lowered(program, 0, 0, 2.0 * QUERIES * piece * width / mesh.size)


def _trained(target: Target, name: Program) -> Lowered:
    """A stage's train step, once it is known that the devices can share its batch."""
    config, (retriever, reranker), devices = target.config, target.models, len(target.devices)
    stage, chunk, loss = trained(config)[name], chunk_of(config, target.machine), config.loss
    check_divisible(stage.options.batch, devices, f"{name}: batch")
    resolved = resolve_loss(loss)
    objective, models = {
        "warm-retriever": (
            retriever_objective(retriever, loss),
            {"retriever": retriever},
        ),
        "warm-reranker": (reranker_objective(reranker, resolved), {"reranker": reranker}),
        "joint": (
            joint_objective(retriever, reranker, resolved),
            {"retriever": retriever, "reranker": reranker},
        ),
    }[name]
    params = {name: _params(model) for name, model in models.items()}
    batch = lists(config, target.machine, stage)
    program = _step(target, stage.options, params, objective, batch)
    again = chunk_count(stage.options.batch * stage.slots // devices, chunk) > 1
    own = config.retriever if name == "warm-retriever" else config.reranker
    layers = target.encoder(own.weights).num_layers  # of the joint step, the re-ranker's
    # Backward is twice forward's work; a chunk is run forward once more.
    return Lowered(program, batch.tokens, layers, (4 if again else 3) * batch.flops)


def _step(
    target: Target, stage: StageConfig, params: Params, objective: Objective, batch: Batch
) -> Any:
    """A train step as `data_parallel` runs it, lowered."""
    optimizer = make_optimizer(stage.optimizer, stage.steps or 1)
    step = partial(train_step, objective=objective, optimizer=optimizer)
    state = jax.eval_shape(lambda p: init_state(p, optimizer, target.config.seed), params)
    mesh = Mesh(np.array(target.devices), (AXIS,))
    if target.parallel == "pmap":
        return mapped(step, target.devices).lower(state, _by_device(batch.arrays, target.devices))
    placed = _placed(state, mesh, P()), _placed(batch.arrays, mesh, P(AXIS))
    return sharded(step, mesh).lower(*placed)


def _params(module: BiEncoder | CrossEncoder) -> Params:
    """A model's parameters, as shapes."""
    one = jnp.ones((1, 8), jnp.int32)
    tokens = Tokens(one, one, one[:, 0])
    inputs = (tokens, tokens) if isinstance(module, BiEncoder) else (tokens,)
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def _own(devices: list[Device]) -> list[Device]:
    """Those of the first host."""
    return [device for device in devices if device.process_index == devices[0].process_index]


def _placed(tree: Any, mesh: Mesh, spec: P) -> Any:
    """The same shapes, on the devices of a mesh."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _by_device(tree: Any, devices: list[Device]) -> Any:
    """[B, ...] -> [devices, B / devices, ...].

    Before 0.8, jax maps over the devices of the process that lowers, as if it were the first host.
    """
    mapped_over = len(devices if jax.__version_info__ >= (0, 8) else _own(devices))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            (mapped_over, x.shape[0] // len(devices), *x.shape[1:]), x.dtype
        ),
        tree,
    )
