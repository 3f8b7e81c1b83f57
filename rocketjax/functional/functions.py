"""Both models as pure functions of arrays: for one's own jit, grad, vmap, scan and shard_map.

The train step and the encoders of rocketjax compute by these same functions. docs/functions.md has
examples.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from rocketjax.config.fields import Count, Share
from rocketjax.config.loss import LossConfig, overruled, resolve_loss
from rocketjax.config.options import validated
from rocketjax.functional.lists import batch_of_lists
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import Params
from rocketjax.retrieval.model import Model
from rocketjax.runtime.devices import AXIS
from rocketjax.runtime.errors import InputError
from rocketjax.text.batch import ListBatch, Text, Tokens, bucket, pad
from rocketjax.training.losses import Term
from rocketjax.training.step import (
    Objective,
    encode_lists,
    joint_objective,
    list_scores,
    reranker_scores,
    share_of_loss,
)

Keys: TypeAlias = (
    jax.Array | None
)  # [N] or [B] random keys for dropout, one for each text; None: no dropout


@dataclass(frozen=True)
class _Options:
    """What is checked of `Functions`."""

    loss: LossConfig
    chunk: Count
    dropout: Share


@dataclass(frozen=True, eq=False)
class Functions:
    """A pair of models as pure functions of parameters and arrays.

    Examples:
        >>> functions = rocketjax.Functions(rocketjax.load("runs/demo"))
        >>> tokens = functions.tokenize_queries(["mean of an array"])
        >>> functions.encode_queries(functions.params, tokens).shape  # [N, D]
        (1, 384)

    Every method that takes `params` is pure and jitted, and may be called inside jit, grad, vjp,
    vmap, scan and shard_map; forward mode (jvp, jacfwd, linearize, hessian) is not supported.
    Those that take texts run on the host, outside.

    Attributes:
        model: the modules, the tokenizers and the parameters to start from.
        loss: how `joint_loss` weighs its terms.
        chunk: texts that a device takes at once of the lists of `tokenize_lists`; 0: all.
        dropout: share of hidden units dropped where `keys` are given.
    """

    model: Model
    loss: LossConfig = LossConfig(retriever_temperature=None)  # noqa: RUF009  (frozen)
    chunk: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raises InputError where `model` is no pair of models, or an option does not fit or count.

        Values are coerced to their fields' types, as a config's are.
        """
        if not isinstance(self.model, Model):
            raise InputError(
                "rocketjax.Functions takes a pair: rocketjax.load(run), or "
                "rocketjax.Model(open_retriever(..), open_reranker(..))"
            )
        loss = asdict(self.loss) if isinstance(self.loss, LossConfig) else self.loss
        values = {"loss": loss, "chunk": self.chunk, "dropout": self.dropout}
        options = validated(_Options, values, str)
        if ignored := overruled(options.loss):
            raise InputError(
                f"loss: preset {options.loss.preset} overrules {', '.join(ignored)}; pass "
                "LossConfig(preset='custom', ..)"
            )
        for field in fields(options):
            object.__setattr__(self, field.name, getattr(options, field.name))

    @property
    def params(self) -> Params:
        """The parameters of both models: {"retriever": .., "reranker": ..}.

        Examples:
            >>> sorted(functions.params)
            ['reranker', 'retriever']
        """
        return {
            "retriever": self.model.retriever.params,
            "reranker": self.model.reranker.params,
        }

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters of both models, as `params`, of the same shapes.

        Examples:
            >>> fresh = functions.init(jax.random.key(0))
            >>> jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, functions.params)
            True
        """
        one = jnp.ones((1, 1), jnp.int32)
        text = Tokens(one, one, one[0])
        first, second = jax.random.split(key)
        return {
            "retriever": self.model.retriever.module.init(first, text, text)["params"],
            "reranker": self.model.reranker.module.init(second, text)["params"],
        }

    @property
    def _pair(self) -> "_Pair":
        modules = (
            model.module.clone(compute=replace(model.module.compute, dropout=self.dropout))
            for model in (self.model.retriever, self.model.reranker)
        )
        return _Pair(*modules, resolve_loss(self.loss))  # pyright: ignore

    def _checked(self, keys: Keys, number: int) -> Keys:
        """Raises InputError for keys that would do nothing, or are not one a text or list."""
        if keys is None:
            return None
        if self.dropout == 0:
            raise InputError("keys are for dropout, and there is none: Functions(.., dropout=0.1)")
        given = jnp.asarray(keys)
        if given.dtype == jnp.uint32:  # of jax.random.PRNGKey
            with suppress(TypeError):  # of another shape: refused below
                given = jax.random.wrap_key_data(given)
        if not jnp.issubdtype(given.dtype, jax.dtypes.prng_key) or given.shape != (number,):
            raise InputError(
                f"got keys of shape {given.shape} and type {given.dtype} for {number} texts or "
                "lists; jax.random.split(key, N) makes N"
            )
        return given

    # ---- of arrays

    def encode_queries(self, params: Params, tokens: Tokens, keys: Keys = None) -> jax.Array:
        """Queries [N, S] -> float32 vectors [N, D]: E_Q of equation 1.

        Args:
            params: of both models.
            tokens: [N, S], as `tokenize_queries` makes them.
            keys: [N] for dropout.

        Examples:
            >>> tokens = functions.tokenize_queries(["mean of an array", "sort a list"])
            >>> jax.jit(functions.encode_queries)(functions.params, tokens).shape
            (2, 384)
        """
        keys, module = self._checked(keys, len(tokens.length)), self._pair.retriever
        return _apply(module, "encode_query", params["retriever"], tokens, keys)

    def encode_passages(self, params: Params, tokens: Tokens, keys: Keys = None) -> jax.Array:
        """Passages [N, S] -> float32 vectors [N, D]: E_P of equation 1.

        Examples:
            >>> queries = functions.tokenize_queries(["mean of an array"])
            >>> passages = functions.tokenize_passages(["the average", "wait", "sorted in order"])
            >>> vectors = functions.encode_passages(functions.params, passages)  # [N, D]
            >>> (functions.encode_queries(functions.params, queries) @ vectors.T).shape
            (1, 3)
        """
        keys, module = self._checked(keys, len(tokens.length)), self._pair.retriever
        return _apply(module, "encode_passage", params["retriever"], tokens, keys)

    def score_pairs(self, params: Params, tokens: Tokens, keys: Keys = None) -> jax.Array:
        """Pairs [N, S] -> the re-ranker's raw scores [N], float32.

        Examples:
            >>> tokens = functions.tokenize_pairs(["mean of an array"], ["the average"])
            >>> functions.score_pairs(functions.params, tokens).shape
            (1,)
            >>> params = [functions.params, functions.init(jax.random.key(0))]
            >>> both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
            >>> jax.vmap(functions.score_pairs, in_axes=(0, None))(both, tokens).shape
            (2, 1)
        """
        keys, module = self._checked(keys, len(tokens.length)), self._pair.reranker
        return _apply(module, "__call__", params["reranker"], tokens, keys)

    def score_lists(
        self, params: Params, batch: ListBatch, keys: Keys = None
    ) -> tuple[jax.Array, jax.Array]:
        """Lists [B, L] -> both models' scores: s_de [B, L] and s_ce [B, L], float32.

        Args:
            params: of both models.
            batch: as `tokenize_lists` makes it; scores where it is not `valid` mean nothing.
            keys: [B] for dropout.

        Examples:
            >>> batch = functions.tokenize_lists(["mean of an array"], [["the average", "wait"]])
            >>> retriever, reranker = functions.score_lists(functions.params, batch)
            >>> retriever.shape, reranker.shape
            ((1, 2), (1, 2))
        """
        return _scores(self._pair, params, batch, self._checked(keys, len(batch.valid)))

    def joint_terms(self, params: Params, batch: ListBatch, keys: Keys = None) -> dict[str, Term]:
        """The joint loss's parts as sums and counts, which add up over devices.

        On a mesh, sum the totals and the counts over its axis, then divide. A count is None where
        nothing is divided by (`loss.reduction` sum, of the preset paper).

        Args:
            params: of both models.
            batch: B lists.
            keys: [B] for dropout.

        Returns:
            "retriever", "reranker" and "distill" (equations 5 and 4), and what is only reported.

        Examples:
            >>> lists = [["the average", "wait"], ["sorted in order", "the average"]]
            >>> batch = functions.tokenize_lists(["mean of an array", "sort a list"], lists)
            >>> total, count = functions.joint_terms(functions.params, batch)["reranker"]
            >>> total.shape, float(count)
            ((), 2.0)
        """
        return self._joint(_terms, params, batch, keys)

    def joint_loss(
        self, params: Params, batch: ListBatch, keys: Keys = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The joint loss [] of B lists, and its parts by name; take its gradient by `params`.

        The re-ranker gets no gradient through the distillation (unless `loss` says otherwise).

        Examples:
            >>> batch = functions.tokenize_lists(["mean of an array"], [["the average", "wait"]])
            >>> gradient = jax.grad(functions.joint_loss, has_aux=True)
            >>> grads, parts = gradient(functions.params, batch)
            >>> jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, functions.params)
            True
            >>> sorted(parts.keys() & {"distill", "loss", "reranker"})
            ['distill', 'loss', 'reranker']
        """
        return self._joint(share_of_loss, params, batch, keys)

    def _joint(
        self, function: Callable[..., Any], params: Params, batch: ListBatch, keys: Keys
    ) -> Any:
        """Raises InputError for a device's part of a batch whose other lists it would need."""
        pair, (lists, slots) = self._pair, batch.valid.shape
        of = batch.relevant.shape[1] // slots
        if pair.loss.retriever_negatives == "batch" and of != lists:
            raise InputError(
                f"loss.retriever_negatives is batch, but here are {lists} lists of a batch of {of}:"
                " it does not work inside shard_map; call joint_loss on the whole batch, or take "
                "list"
            )
        return _alone(function, pair, params, batch, self._checked(keys, lists))

    # ---- of texts, on the host

    def tokenize_queries(self, queries: Sequence[str]) -> Tokens:
        """N queries -> tokens [N, S], S a multiple of 32 or the model's `query_length`.

        Examples:
            >>> tokens = functions.tokenize_queries(["mean of an array", "sort a list"])
            >>> tokens.ids.shape, tokens.length.shape
            ((2, 32), (2,))

        Raises:
            InputError: a query is empty or not a text; its index is named.
        """
        tokenizer = self.model.retriever.tokenizer
        return _padded(tokenizer.query(queries), tokenizer.config.query_length, tokenizer.pad_id)

    def tokenize_passages(
        self, passages: Sequence[str], titles: Sequence[str] | None = None
    ) -> Tokens:
        """N passages -> tokens [N, S]; errors as `tokenize_queries`.

        Examples:
            >>> functions.tokenize_passages(["the average", "wait"], ["mean", "sleep"]).ids.shape
            (2, 32)
        """
        tokenizer = self.model.retriever.tokenizer
        return _padded(
            tokenizer.passage(titles, passages),
            tokenizer.config.passage_length,
            tokenizer.pad_id,
        )

    def tokenize_pairs(
        self,
        queries: Sequence[str],
        passages: Sequence[str],
        titles: Sequence[str] | None = None,
    ) -> Tokens:
        """N pairs (queries[i], passages[i]) -> tokens [N, S]; errors as `tokenize_queries`.

        Examples:
            >>> functions.tokenize_pairs(["a mean", "a pause"], ["average", "wait"]).ids.shape
            (2, 32)
        """
        tokenizer = self.model.reranker.tokenizer
        texts = tokenizer.pair(queries, titles, passages)
        return _padded(texts, tokenizer.config.pair_length, tokenizer.pad_id)

    def tokenize_lists(
        self,
        queries: Sequence[str],
        passages: Sequence[Sequence[str]],
        devices: int = 1,
        labelled: Sequence[bool] | None = None,
        scores: Sequence[Sequence[float | None]] | None = None,
    ) -> ListBatch:
        """B queries, each with a list of passages, its positive first -> a batch [B, L].

        L is the longest list's length; shorter ones get empty slots. A passage stays in the slot
        that it is given in; one that says what its list's first one says is not `valid`.

        Args:
            queries: B texts.
            passages: B lists of texts.
            devices: that share the batch: it may be split into as many parts along the leading
                axis of its arrays.
            labelled: B, whether a list's first passage is a positive; the retriever learns from the
                others by distillation alone. None: all are.
            scores: of all passages by another teacher, where the loss's `teacher` is stored or
                both; None where it gave none.

        Examples:
            >>> lists = [["the average", "wait"], ["sorted in order"]]
            >>> functions.tokenize_lists(["mean of an array", "sort a list"], lists).valid.tolist()
            [[True, True], [True, False]]

        Raises:
            InputError: not as many lists as queries, an empty list, not one finite score or None
                for each passage, or lists that `devices` do not share equally; else as
                `tokenize_queries`.
        """
        return batch_of_lists(self.model, self.chunk, queries, passages, devices, labelled, scores)


@partial(jax.jit, static_argnums=(0, 1))
def _apply(module: nn.Module, method: str, params: Params, tokens: Tokens, keys: Keys) -> jax.Array:
    return module.apply({"params": params}, tokens, keys, method=method)  # pyright: ignore


@partial(jax.jit, static_argnums=0)
def _scores(
    pair: "_Pair", params: Params, batch: ListBatch, keys: Keys
) -> tuple[jax.Array, jax.Array]:
    query, passage = encode_lists(pair.retriever, params["retriever"], batch, keys)
    ce = reranker_scores(pair.reranker, params["reranker"], batch, keys)
    return list_scores(query, passage), ce


@partial(jax.jit, static_argnums=(0, 1))
def _alone(
    function: Callable[..., Any], pair: "_Pair", params: Params, batch: ListBatch, keys: Keys
) -> Any:
    """A function of the train step, which runs inside an axis of devices, as of one device."""
    objective = joint_objective(pair.retriever, pair.reranker, pair.loss)
    batch, keys = jax.tree.map(lambda x: jnp.asarray(x)[None], (batch, keys))
    of_one = jax.vmap(lambda b, k: function(params, b, k, objective), axis_name=AXIS)
    return jax.tree.map(lambda x: x[0], of_one(batch, keys))


def _terms(params: Params, batch: ListBatch, keys: Keys, objective: Objective) -> dict[str, Term]:
    return objective.terms_of(params, batch, keys)


class _Pair(NamedTuple):
    """What a jitted function depends on beside its arrays."""

    retriever: BiEncoder
    reranker: CrossEncoder
    loss: LossConfig


def _padded(texts: Sequence[Text], limit: int, pad_id: int) -> Tokens:
    if not texts:
        raise InputError("no texts: give at least one")
    longest = max(len(text.ids) for text in texts)
    return pad(texts, len(texts), bucket(longest, limit), pad_id)
