"""Floating-point operations of an encoder, from its shape alone."""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rocketjax.bench.measure import Ask, asked
from rocketjax.config.loss import LossConfig
from rocketjax.config.schema import (
    ComputeConfig,
    OptimizerConfig,
    RerankerConfig,
    RetrieverConfig,
    TextConfig,
)
from rocketjax.data.collection import Collection, Split
from rocketjax.data.lists import TrainingList
from rocketjax.data.passages import Passage
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.inference.start import laid_out, pretrained_reranker, pretrained_retriever
from rocketjax.models.encoder import EncoderConfig
from rocketjax.runtime.devices import PerDevice, data_parallel, replicate
from rocketjax.text.batch import ListBatch
from rocketjax.training.loader import Collator
from rocketjax.training.losses import joint_weights
from rocketjax.training.optimizer import make_optimizer
from rocketjax.training.step import TrainState, init_state, joint_terms_of, train_step


def forward_flops(config: EncoderConfig, tokens: float) -> float:
    """Of one text of so many tokens, forward; two for each multiply-add.

    Only matrix products count: the projections' weights [4 D^2 + 2 D F a layer] meet every token,
    and attention's two products bring every token together with every other [2 S^2 D a layer].
    """
    d, f = config.hidden_size, config.intermediate_size
    weights = 4 * d * d + 2 * d * f
    return 2 * config.num_layers * (tokens * weights + 2 * tokens**2 * d)


@dataclass(frozen=True)
class Work:
    """Texts of one collection, drawn by a seed."""

    weights: str  # a folder
    passages: list[str]  # title and text
    queries: list[str]
    pairs: list[tuple[str, str]]  # a query with one of its candidates
    lists: list[tuple[str, list[str]]]  # a query, its positive passage and other ones
    query_length: int
    passage_length: int
    pair_length: int

    def write(self, path: Path) -> None:
        """As JSON, for the other process."""
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> "Work":
        """What `write` wrote."""
        return Work(**json.loads(path.read_text(encoding="utf-8")))


def make_work(
    collection: Collection,
    split: Split,
    weights: str,
    passages: int,
    lists: int,
    length: int,
    lengths: tuple[int, int, int],
) -> Work:
    """Draws `passages` passages, as many pairs, and `lists` lists of `length` passages."""
    rng = np.random.default_rng(0)
    corpus = collection.passages
    count = len(corpus)
    some = [
        corpus[int(row)].whole for row in rng.choice(count, min(passages, count), replace=False)
    ]
    judged = sorted(split.qrels)
    drawn = [judged[int(i)] for i in rng.choice(len(judged), max(len(some), lists))]
    queries = [split.queries[query] for query in drawn]
    rows = []
    for query in drawn[:lists]:
        positive = collection.by_id[next(iter(split.qrels[query]))]
        others = [corpus[int(row)].whole for row in rng.choice(count, length - 1, replace=False)]
        rows.append((split.queries[query], [positive.whole, *others]))
    pairs = list(zip(queries, some, strict=False))
    return Work(weights, some, queries[: len(some)], pairs, rows, *lengths)


LOSS = LossConfig(retriever_temperature=0.05)


class Ours:
    """The tasks, each a function that does all of its work once."""

    def __init__(self, work: Work, compute: ComputeConfig) -> None:
        self.work, self.compute = work, compute
        text = TextConfig(work.query_length, work.passage_length, work.pair_length)
        self.retriever: Retriever = pretrained_retriever(
            RetrieverConfig(work.weights), text, compute
        )
        self.reranker: Reranker = pretrained_reranker(
            RerankerConfig(work.weights), text, compute, 1
        )

    def encode(self) -> None:
        """Every passage to its vector, tokenising included."""
        self.retriever.encode_passage(self.work.passages)

    def rerank(self) -> None:
        """Every pair to its score, tokenising included."""
        queries, passages = zip(*self.work.pairs, strict=True)
        self.reranker.score(queries, passages)

    def train(self) -> Callable[[], None]:
        """A joint step on every list, tokenising included: both towers, the re-ranker, AdamW."""
        step, state = self.joint_step(self.compute.chunk)
        program = data_parallel(step)
        collate, lists = collator(self.work, self.retriever, self.reranker, self.compute)

        def run() -> None:
            nonlocal state
            state, metrics = program(state, collate(lists))
            jax.block_until_ready(metrics)

        return run

    def joint_step(self, chunk: int) -> tuple[PerDevice[TrainState], TrainState]:
        """The joint step as a device runs it, and the state before it, on every device."""
        optimizer = make_optimizer(OptimizerConfig(schedule="constant", warmup=0.0), 1_000)
        params = {"retriever": self.retriever.params, "reranker": self.reranker.params}
        terms = joint_terms_of(self.retriever.module, self.reranker.module, LOSS, chunk)
        step = partial(train_step, terms_of=terms, weights=joint_weights(LOSS), optimizer=optimizer)
        return step, replicate(init_state(params, optimizer, 1))


def collator(
    work: Work, retriever: Retriever, reranker: Reranker, compute: ComputeConfig
) -> tuple[Callable[[Sequence[TrainingList]], ListBatch], list[TrainingList]]:
    """What makes a batch of the work's lists, and the lists."""
    queries = {str(i): query for i, (query, _) in enumerate(work.lists)}
    passages = {
        f"{i} {j}": Passage(f"{i} {j}", "", text)
        for i, (_, texts) in enumerate(work.lists)
        for j, text in enumerate(texts)
    }
    slots = len(work.lists[0][1])
    lists = [
        TrainingList(query, f"{query} 0", tuple(f"{query} {j}" for j in range(1, slots)))
        for query in queries
    ]
    devices = laid_out(compute) and jax.device_count()
    tokenizers = retriever.tokenizer, reranker.tokenizer
    collate = Collator(queries, passages, *tokenizers, slots, devices, compute.chunk)
    return collate.fitted(lists, len(lists)), lists


class Joint(NamedTuple):
    """`program(state, batch)` gives the next state and the step's metrics; it has `lower`."""

    program: Any
    state: TrainState
    collate: Callable[[Sequence[TrainingList]], ListBatch]
    lists: list[TrainingList]


def make_joint(ours: Ours, length: int = 0, chunk: int = 0) -> Joint:
    """A joint step on all of the work's lists.

    Args:
        length: passages in a list, the list's own ones again and again; 0: as many as it has.
        chunk: see steps.in_chunks.
    """
    work = ours.work
    if length:
        lists = [(query, (texts * length)[:length]) for query, texts in work.lists]
        work = dataclasses.replace(work, lists=lists)
    step, state = ours.joint_step(chunk)
    compute = dataclasses.replace(ours.compute, chunk=chunk)
    collate, lists = collator(work, ours.retriever, ours.reranker, compute)
    return Joint(data_parallel(step, backend="shard_map"), state, collate, lists)


@contextmanager
def rival_process(work: Work) -> Iterator[Ask]:
    """The other process, ready to be asked."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.json"
        work.write(path)
        with asked("rocketjax.bench.rivals.texts.texts", path) as ask:
            yield ask
