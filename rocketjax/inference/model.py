"""A model with its tokenizer, run on texts by one compiled program on every local device."""

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh

from rocketjax.inference.batching import (
    BATCHING,
    Batching,
    Unit,
    filling,
    groups,
    lay_out_units,
    of_every_shape,
    plan,
)
from rocketjax.models.encoder import Params, unstacked
from rocketjax.runtime.devices import (
    local_mesh,
    on_each_device,
    refuse_forked,
    replicate,
    shard_rows,
)
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Advance, silent
from rocketjax.runtime.threads import cores, in_threads
from rocketjax.text.batch import Rows, Text
from rocketjax.text.tokenizer import Tokenizer

ON_CPU = 4  # programs at once, where there are as many cores: more have never been measured
IN_FLIGHT = 3  # batches given to accelerators before the first result: they never wait for the host


class Method(NamedTuple):
    """A method of a module that maps texts to one result each."""

    name: str
    limit: int  # tokens in the longest text
    shape: tuple[int, ...] = ()  # of one text's result: (D,) for a vector, () for a score


@dataclass(frozen=True, eq=False)
class TextModel:
    """What the retriever and the re-ranker share: they tokenise, batch and run texts alike.

    Attributes:
        module: how results are computed.
        params: the module's "params", not committed to any device: they work on every mesh.
        tokenizer: how texts are read, and their lengths.
        batching: how many texts a device takes at once, and in which shapes.
        notes: what was taken from its folder and is not plain from it, a line for people each.
    """

    module: nn.Module
    params: Params = field(repr=False)
    tokenizer: Tokenizer
    batching: Batching = BATCHING
    notes: tuple[str, ...] = field(default=(), repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that decides the results: the same for two copies of one model.

        It covers the names and values of the parameters, the module (but not how it computes) and
        how texts are tokenised.
        """
        digest = hashlib.blake2b(digest_size=16)
        for path, value in jax.tree_util.tree_leaves_with_path(self.params):
            digest.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).view(np.uint8).data)
        digest.update(repr(self.module.clone(compute=None)).encode())  # pyright: ignore
        digest.update(self.tokenizer.description.encode())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: the fields, without what was placed on devices or cached."""
        state = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return state | {"params": jax.tree.map(np.asarray, self.params)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Raises InputError in a forked process, where jax would hang."""
        refuse_forked()
        self.__dict__.update(state, params=jax.device_put(state["params"]))

    def _run(
        self, method: Method, texts: Sequence[Text], advance: Advance, steady: bool
    ) -> np.ndarray:
        """Runs texts through a method.

        The shapes of batches are few, so that the number of compilations is bounded whatever texts
        come.

        Args:
            method: of `module`.
            texts: tokenised, each at most `method.limit` tokens long.
            advance: called with the number of texts just finished.
            steady: use one size of batch for each width of rows, however few texts there are.

        Returns:
            float32 [len(texts), *method.shape], in the order of `texts`.

        Raises:
            InputError: called while jax traces a function, or in a process forked from one in which
                jax runs.
        """
        units = plan([len(text.ids) for text in texts], method.limit, self.batching, steady)
        results = np.empty((len(texts), *method.shape), np.float32)
        for unit, values in self._run_units(method, texts, units):
            results[unit.texts] = values[: len(unit.texts)]
            advance(len(unit.texts))
        return results

    def _run_in_blocks(self, method: Method, texts: Sequence[Text]) -> Iterator[np.ndarray]:
        """As `_run` with `steady`, but in the given order, by as many as the devices take at once.

        Nothing of a block is run before it is asked for.
        """
        lengths, devices = [len(text.ids) for text in texts], local_mesh().size
        start = 0
        while start < len(texts):
            rest = lengths[start:]
            end = start + filling(rest, method.limit, self.batching, devices, _at_once())
            yield self._run(method, texts[start:end], silent, steady=True)
            start = end

    def _run_units(
        self, method: Method, texts: Sequence[Text], units: Sequence[Unit]
    ) -> Iterator[tuple[Unit, np.ndarray]]:
        """Runs each unit on a device; gives it with its results [N, ...]."""
        refuse_forked()
        if isinstance(jnp.zeros(()), Tracer):
            raise InputError(
                "a model takes texts and cannot run inside jax.jit: call it outside, or compute "
                "model.module.apply({'params': params}, tokens, method=...) inside"
            )
        mesh, params = local_mesh(), self._placed_params

        def start(group: list[Unit]) -> tuple[list[Unit], jax.Array]:
            rows = lay_out_units(group, texts, self.tokenizer.pad_id, mesh.size)
            return group, apply(self.module, method.name, mesh, params, shard_rows(rows))

        for group, values in _started(start, groups(units, mesh.size)):
            # Devices beyond the units were idle.
            yield from zip(group, np.asarray(values), strict=False)

    def _compile(self, method: Method) -> None:
        """Compiles every program that `_run` may need with `steady`."""
        for _ in self._run_units(method, [], list(of_every_shape(method.limit, self.batching))):
            pass

    @cached_property
    def _placed_params(self) -> Params:
        """The parameters on every local device, in the form that is fastest there."""
        if jax.default_backend() != "cpu":
            return replicate(self.params)
        # Sliced by numpy: jax would compile a program for each slice of each shape.
        return replicate(unstacked(jax.device_get(self.params)))


@partial(jax.jit, static_argnums=(0, 1, 2))
def apply(module: nn.Module, method: str, mesh: Mesh, params: Params, texts: Rows) -> jax.Array:
    """Runs a module's method on every device of a mesh, each with its own texts.

    Compiled once for each module, method and shape; equal modules share their programs.

    Args:
        module: a BiEncoder or a CrossEncoder.
        method: of the module, from N texts to one result for each.
        mesh: of this process' devices.
        params: the module's, on every device.
        texts: [devices, ...].

    Returns:
        [devices, N, ...], a result for each text.
    """

    def part(params: Params, texts: Rows) -> jax.Array:
        own = jax.tree.map(lambda x: x[0], texts)
        return module.apply({"params": params}, own, method=method)[None]  # pyright: ignore

    return on_each_device(part, mesh)(params, texts)


def _at_once() -> int:
    """Groups of units that a CPU runs at the same time; accelerators run one."""
    return min(cores(), ON_CPU) if jax.default_backend() == "cpu" else 1


def _started(
    start: Callable[[list[Unit]], tuple[list[Unit], jax.Array]], dealt: Iterable[list[Unit]]
) -> Iterator[tuple[list[Unit], jax.Array]]:
    """What `start` returns for each group, in order, while later groups run."""
    if jax.default_backend() == "cpu":
        # One program does not keep all cores busy: between its products they wait for each other.
        # jax runs programs one after another unless they come from several threads.
        yield from in_threads(lambda group: jax.block_until_ready(start(group)), dealt, _at_once())
        return
    running: deque[tuple[list[Unit], jax.Array]] = deque()
    for group in dealt:
        if len(running) == IN_FLIGHT:
            yield running.popleft()
        running.append(start(group))
    yield from running
