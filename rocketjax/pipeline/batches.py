"""A stage's batches: its lists as tokens, in a seeded order, from any step on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from rocketjax.data.lists import TrainingList
from rocketjax.inference.start import row_widths
from rocketjax.models.encoder import Params
from rocketjax.pipeline.context import Run
from rocketjax.pipeline.lists import lists_of_round, round_length
from rocketjax.retrieval.model import Model
from rocketjax.text.tokenizer import Tokenizer
from rocketjax.training.loader import Collator, list_batches, lists_of_step
from rocketjax.training.loop import Feed


@dataclass(frozen=True)
class OneRound:
    """The batches of a stage whose lists stay the same."""

    run: Run
    lists: Sequence[TrainingList]
    collator: Collator
    batch: int  # lists in a batch
    length: int = 0

    def from_step(self, step: int, params: Params) -> Feed:
        """The batches from `step` on; the lists do not depend on `params`."""
        order = _Order(self.lists, self.batch, self.run.config.seed)
        return _feed(self.run, order, self.collator.fitted(self.lists, self.batch), step)


@dataclass(frozen=True)
class EasyFirst:
    """The batches of a stage that takes easy lists for its first `length` steps."""

    run: Run
    easy: Sequence[TrainingList]
    lists: Sequence[TrainingList]
    collator: Collator
    batch: int  # lists in a batch
    length: int

    def from_step(self, step: int, params: Params) -> Feed:
        """The batches from `step` on, all of one shape; the lists do not depend on `params`."""
        fitted = self.collator.fitted([*self.easy, *self.lists], self.batch)
        lists, first = (self.easy, 0) if step < self.length else (self.lists, self.length)
        return _feed(self.run, _Order(lists, self.batch, self.run.config.seed, first), fitted, step)


@dataclass(frozen=True)
class Rounds:
    """The joint stage's batches: with `lists.refresh`, every round mines its lists again."""

    run: Run
    start: Model  # at the joint stage's first step
    collator: Collator

    @property
    def length(self) -> int:
        """Steps in a round; 0: one round is the whole stage."""
        return self.run.config.lists.refresh

    def from_step(self, step: int, params: Params) -> Feed:
        """The batches from `step` to the end of its round, mined with `params` if it is fresh."""
        config = self.run.config
        number = step // round_length(config)
        first = number * round_length(config)
        model = self.start.with_params(params)
        lists = lists_of_round(self.run, number, model, fresh=step == first)
        order = _Order(lists, config.joint.batch, config.seed + number, first)
        fitted = self.collator.fitted(lists, config.joint.batch)
        return _feed(self.run, order, fitted, step)


def make_collator(
    run: Run, slots: int, retriever: Tokenizer, reranker: Tokenizer, stored: bool = False
) -> Collator:
    """Lays out lists of up to `slots` passages for both models, with `stored` teacher's scores."""
    retriever.remember()
    reranker.remember(retriever)  # both read the same passages
    return Collator(
        run.queries,
        run.collection.by_id,
        retriever,
        reranker,
        slots,
        jax.device_count(),
        run.config.compute.chunk,
        row_widths(run.config.compute.attention),
        judged=run.judged,
        stored=stored,
        deals=True,
    )


@dataclass(frozen=True)
class _Order:
    """The order in which a round goes through its lists."""

    lists: Sequence[TrainingList]
    batch: int
    seed: int
    first: int = 0  # the round's first step


def _feed(run: Run, order: _Order, collator: Collator, step: int) -> Feed:
    """The batches of a round from `step` on; the collator's shapes fit them."""
    lists, batch, seed = order.lists, order.batch, order.seed

    def queries_of(number: int) -> list[str]:
        return [item.query for item in lists_of_step(lists, batch, seed, number - order.first)]

    batches = list_batches(lists, collator, batch, seed, start=step - order.first)
    return Feed(batches, queries_of, _hash(run, lists, collator))


def _hash(run: Run, lists: Sequence[TrainingList], collator: Collator) -> str:
    """Of everything that batches are made of, except the tokenizers."""
    digest = hashlib.blake2b(run.collection.fingerprint.encode(), digest_size=16)
    for item in lists:
        digest.update("\t".join((item.query, item.positive, *item.negatives)).encode())
        digest.update(f"\n{collator.queries[item.query]}\n".encode())
        if collator.stored:
            digest.update(f"{item.scores}\n".encode())
    return digest.hexdigest()
