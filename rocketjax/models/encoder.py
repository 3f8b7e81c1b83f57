"""A Transformer encoder of BERT's kind, from BERT to ModernBERT (models/families.py).

One linen module whose layers all run the same pure function, `layer`. Their parameters are stacked
([num_layers, ...]) and scanned over, so that compile time does not grow with depth. Where every
third layer is global and the others are local, a step of the scan is three layers: then windows
are static, as a kernel needs them, and no layer computes both.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.models.architecture import Compute, EncoderConfig, RematPolicy
from rocketjax.models.dropout import dropout, fold_in
from rocketjax.models.layer import (
    How,
    Params,
    States,
    dense,
    init_layers,
    init_norm,
    layer,
    layer_norm,
)
from rocketjax.models.positions import Places, by_distance, relative_bias, turns
from rocketjax.models.tables import look_up
from rocketjax.text.batch import Rows, Tokens
from rocketjax.text.rows import one_a_row


def unstacked(params: Params) -> Params:
    """The same parameters with every encoder's layers as a tuple; an `Encoder` accepts either.

    Slicing the stack copies each layer's matrices at every call, which is slow on a CPU.
    """
    if not isinstance(params, Mapping):
        return params
    return {
        name: tuple(
            jax.tree.map(lambda p, i=i: p[i], value) for i in range(len(jax.tree.leaves(value)[0]))
        )
        if name == "layers"
        else unstacked(value)
        for name, value in params.items()
    }


class Encoder(nn.Module):
    """Token ids to hidden states, one vector per token."""

    config: EncoderConfig
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self, texts: Rows | Tokens, keys: jax.Array | None = None, first_only: bool = False
    ) -> jax.Array:
        """Encodes texts to hidden states in the compute dtype.

        Args:
            texts: N in packed rows [R, S], or padded [N, S], which is a row for each. No text is
                longer than config.max_length.
            keys: [N] random keys for dropout, one per text; None: no dropout.
            first_only: return only the state of each text's first token.

        Returns:
            [R, S, D], or [N, D] with `first_only`.

        Raises:
            ValueError: padded texts are longer than the encoder has positions.
        """
        config, compute = self.config, self.compute
        if isinstance(texts, Tokens) and texts.ids.shape[1] > config.max_length:
            raise ValueError(
                f"texts padded to {texts.ids.shape[1]} tokens, but the encoder has positions "
                f"for {config.max_length}: lower the text lengths of the config"
            )
        rows = one_a_row(texts) if isinstance(texts, Tokens) else texts
        if keys is not None:  # one per token, the same wherever a text lies
            keys = fold_in(rows.per_token(keys), jnp.asarray(rows.position).reshape(-1))
        x = self._embed(rows, keys)
        states = States(x.astype(compute.dtype), x if config.prenorm else None)
        if self.has_variable("params", "layers"):
            layers = self.get_variable("params", "layers")
        else:
            layers = self.param("layers", init_layers, config)
        run, kinds = _rematerialised(compute.remat), self._kinds(rows)
        # The last layer is compiled by itself only if it computes less than the others: inside the
        # scan it costs no compile time.
        whole = config.num_layers - int(first_only)

        def one(states: States, params: Params, index: jax.Array | int, kind: int) -> States:
            window, places = kinds[kind]
            how = How(config, compute, window)
            return run(how, states, (params, index), rows, places, keys)

        states = _through(one, states, layers, whole, len(kinds), compute.unroll)
        if not first_only:
            return states.normed.reshape(*rows.text.shape, -1)
        window, places = kinds[whole % len(kinds)]
        how, last = How(config, compute, window, first_only=True), _one_of(layers, whole)
        return run(how, states, (last, whole), rows, places, keys).normed

    def _embed(self, rows: Rows, keys: jax.Array | None) -> jax.Array:
        """The normalised sum of word, position, segment (and task) embeddings, float32 [T, D]."""
        config = self.config
        init = nn.initializers.normal(0.02)
        width = config.table_width

        def table(name: str, rows: int) -> jax.Array:
            return self.param(name, init, (rows, width), jnp.float32)

        def looked_up(name: str, rows: int, index: jax.Array) -> jax.Array:
            product = None if self.compute.scatter else self.compute.dtype
            return look_up(table(name, rows), index, product)

        ids, types, position = (
            jnp.asarray(each).reshape(-1) for each in (rows.ids, rows.types, rows.position)
        )
        x = looked_up("word_embedding", config.vocab_size, ids)
        if config.position_rows:
            place = position + config.position_offset
            x = x + looked_up("position_embedding", config.position_rows, place)
        if config.type_vocab_size:
            x = x + looked_up("type_embedding", config.type_vocab_size, types)
        if config.task_type_vocab_size:  # ERNIE numbers its tasks; rocketjax trains one, number 0
            x = x + table("task_embedding", config.task_type_vocab_size)[0]
        first = config.projected_first
        if first:
            x = self._to_hidden_size(x)
        norm = self.param("embedding_norm", lambda _: init_norm(x.shape[-1], config.norm_bias))
        x = layer_norm(norm, x, config.layer_norm_eps)
        x = dropout(x, keys, self.compute.dropout)
        return x if first else self._to_hidden_size(x)

    def _to_hidden_size(self, x: jax.Array) -> jax.Array:
        """Embeddings [T, E] of narrow tables, projected: float32 [T, D]."""
        config, shape = self.config, (x.shape[-1], self.config.hidden_size)
        if shape[0] == shape[1]:
            return x
        draw = nn.initializers.lecun_normal()

        def init(key: jax.Array) -> Params:
            bias = {} if config.projected_first else {"bias": jnp.zeros(shape[1])}
            return {"kernel": draw(key, shape), **bias}

        projection = self.param("embedding_projection", init)
        return dense(projection, x, self.compute.dtype).astype(jnp.float32)

    def _kinds(self, rows: Rows) -> list[tuple[int | None, Places]]:
        """The window, and what attention is told of positions, of layers that take turns."""
        config, count = self.config, self.config.global_every
        turned = dict.fromkeys([config.rope_theta, config.local_rope_theta or config.rope_theta])
        if config.rope_theta:
            position = jnp.asarray(rows.position).reshape(-1)
            size = config.hidden_size // config.num_heads
            turned = {theta: turns(position, size, theta, config.rope_factor) for theta in turned}
        bias, length = None, rows.text.shape[-1]
        if config.relative_buckets:
            shape = config.relative_buckets, config.num_heads
            table = self.param("relative_embedding", nn.initializers.normal(0.02), shape)
            bias = relative_bias(table, length)
        distances = self._distances(length)
        wide, *narrow = (Places(each, bias, distances) for each in turned.values())
        local = config.window or None, narrow[0] if narrow else wide
        return [(None, wide), *[local] * (count - 1)]

    def _distances(self, length: int) -> jax.Array | None:
        """The embeddings of distances in rows of S slots, [2 S, D]; None: there are none."""
        config, of = self.config, self.config.distances
        if of is None:
            return None
        shape = 2 * of.side, config.hidden_size
        table = self.param("distance_embedding", nn.initializers.normal(0.02), shape)
        if of.norm:
            norm = self.param("distance_norm", lambda _: init_norm(shape[1], bias=True))
            table = layer_norm(norm, table, config.layer_norm_eps)
        return by_distance(table, of, config.max_length - 1, length)


def _through(
    one: Callable[[States, Params, jax.Array | int, int], States],
    states: States,
    layers: Params,
    whole: int,
    kinds: int,
    unroll: int,
) -> States:
    """The states after the first `whole` layers, of which every so many (`kinds`) are alike.

    Args:
        one: one layer, of parameters, index and kind.
        states: before the first.
        layers: parameters, stacked or a tuple.
        whole: how many.
        kinds: layers in a step of the scan. Those that fill no step are compiled by themselves.
        unroll: layers that are compiled at once.
    """
    steps = 0 if isinstance(layers, tuple) else whole // kinds

    def body(states: States, indexed: tuple[Params, jax.Array]) -> tuple[States, None]:
        params, first = indexed
        for kind in range(kinds):
            states = one(states, _one_of(params, kind), first + kind, kind)
        return states, None

    if steps:
        stacked = jax.tree.map(
            lambda p: p[: steps * kinds].reshape(steps, kinds, *p.shape[1:]), layers
        )
        unroll = max(1, min(unroll // kinds, steps))
        firsts = kinds * jnp.arange(steps)
        states, _ = jax.lax.scan(body, states, (stacked, firsts), unroll=unroll)
    for index in range(steps * kinds, whole):
        states = one(states, _one_of(layers, index), index, index % kinds)
    return states


def _one_of(layers: Params, index: int) -> Params:
    """The parameters of one layer."""
    if isinstance(layers, tuple):
        return layers[index]
    return jax.tree.map(lambda p: p[index], layers)


def _rematerialised(policy: RematPolicy) -> Callable[..., States]:
    """`layer`; its backward pass recomputes what `policy` does not save."""
    if policy == "none":
        return layer
    save = {
        "full": jax.checkpoint_policies.nothing_saveable,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }[policy]
    # The layer's index is traced, as it is in the scan.
    return jax.checkpoint(layer, policy=save, static_argnums=0)
