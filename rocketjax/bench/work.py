"""What both sides compute: texts drawn from a collection, and our side of every task on them.

The other side, of the same texts, is rivals/texts.py.
"""

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from rocketjax.bench.measure import Ask, worker_process
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
from rocketjax.inference.start import pretrained_reranker, pretrained_retriever, row_widths
from rocketjax.models.architecture import DENSE, EncoderConfig
from rocketjax.runtime.devices import PerDevice, data_parallel, replicate
from rocketjax.text.batch import ListBatch
from rocketjax.training.loader import Collator
from rocketjax.training.optimizer import make_optimizer
from rocketjax.training.step import TrainState, init_state, joint_objective, train_step

# Of every train step that is measured.
TEMPERATURE = 0.05
LOSS = LossConfig(retriever_temperature=TEMPERATURE)


def constant_optimizer() -> optax.GradientTransformation:
    """The optimizer of every train step that is measured."""
    return make_optimizer(OptimizerConfig(schedule="constant", warmup=0.0), 1_000)


@dataclass(frozen=True)
class Work:
    """Texts of one collection, drawn by a seed."""

    weights: str  # a folder
    passages: list[str]  # title and text
    queries: list[str]
    pairs: list[tuple[str, str]]  # a query with one of the passages
    lists: list[tuple[str, list[str]]]  # a query, its positive passage first and other ones
    query_length: int
    passage_length: int
    pair_length: int
    reranker: str = ""  # a folder; empty: `weights`, with a fresh head

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
    """Draws `passages` passages, as many pairs, and `lists` lists of `length` passages.

    Args:
        lengths: the longest query, passage and pair in tokens.
    """
    rng = np.random.default_rng(0)
    corpus = collection.passages
    count = len(corpus)

    def draw(most: int) -> list[str]:
        return [corpus[int(row)].whole for row in rng.choice(count, most, replace=False)]

    texts = draw(min(passages, count))
    with_qrels = sorted(split.qrels)
    names = [with_qrels[int(i)] for i in rng.choice(len(with_qrels), max(len(texts), lists))]
    queries = [split.queries[name] for name in names]
    rows = []
    for name in names[:lists]:
        positive = collection.by_id[next(iter(split.qrels[name]))]
        rows.append((split.queries[name], [positive.whole, *draw(length - 1)]))
    pairs = list(zip(queries, texts, strict=False))
    return Work(weights, texts, queries[: len(texts)], pairs, rows, *lengths)


@contextmanager
def rival_process(work: Work) -> Iterator[Ask]:
    """The other side, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.json"
        work.write(path)
        with worker_process("rocketjax.bench.rivals.texts", path) as ask:
            yield ask


class Ours:
    """Our side: the tasks, each a function that does all of its work once."""

    def __init__(self, work: Work, compute: ComputeConfig) -> None:
        self.work, self.compute = work, compute
        text = TextConfig(work.query_length, work.passage_length, work.pair_length)
        self.retriever = pretrained_retriever(RetrieverConfig(work.weights), text, compute)
        reranker = RerankerConfig(work.reranker or work.weights)
        self.reranker = pretrained_reranker(reranker, text, compute, 1)

    def encode(self) -> None:
        """Every passage to its vector, tokenising included."""
        self.retriever.encode_passage(self.work.passages)

    def rerank(self) -> None:
        """Every pair to its score, tokenising included."""
        queries, passages = zip(*self.work.pairs, strict=True)
        self.reranker.score(queries, passages)

    def train(self) -> Callable[[], None]:
        """A joint step on every list, tokenising included: both towers, the re-ranker, AdamW."""
        step, state = self.joint_step()
        program = data_parallel(step)
        collate, lists = make_collator(self.work, self.retriever, self.reranker, self.compute)

        def run() -> None:
            nonlocal state
            state, metrics = program(state, collate(lists))
            jax.block_until_ready(metrics)

        return run

    def joint_step(self) -> tuple[PerDevice[TrainState], TrainState]:
        """The joint step as a device runs it, and the state before it, on every device."""
        optimizer = constant_optimizer()
        params = {"retriever": self.retriever.params, "reranker": self.reranker.params}
        objective = joint_objective(self.retriever.module, self.reranker.module, LOSS)
        step = partial(train_step, objective=objective, optimizer=optimizer)
        return step, replicate(init_state(params, optimizer, 1))


class Joint(NamedTuple):
    """A joint step, ready to run on batches of the work's lists."""

    program: Any  # (state, batch) -> the next state and the step's metrics; it has `lower`
    state: TrainState
    collate: Callable[[Sequence[TrainingList]], ListBatch]
    lists: list[TrainingList]


def make_joint(ours: Ours, length: int = 0, chunk: int = 0) -> Joint:
    """A joint step on all of the work's lists.

    Args:
        length: passages in a list, its own ones over and over; 0: as many as it has.
        chunk: see training.step.in_chunks.
    """
    work = ours.work
    if length:
        lists = [(query, (texts * length)[:length]) for query, texts in work.lists]
        work = dataclasses.replace(work, lists=lists)
    step, state = ours.joint_step()
    compute = dataclasses.replace(ours.compute, chunk=chunk)
    collate, lists = make_collator(work, ours.retriever, ours.reranker, compute)
    return Joint(data_parallel(step, backend="shard_map"), state, collate, lists)


def make_collator(
    work: Work, retriever: Retriever, reranker: Reranker, compute: ComputeConfig
) -> tuple[Collator, list[TrainingList]]:
    """The collator of the work's lists, and the lists by the ids that it knows."""
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
    tokenizers, devices = (retriever.tokenizer, reranker.tokenizer), jax.device_count()
    widths = row_widths(compute.attention)
    collator = Collator(queries, passages, *tokenizers, slots, devices, compute.chunk, widths)
    return collator.fitted(lists, len(lists)), lists


def forward_flops(config: EncoderConfig, tokens: float) -> float:
    """Floating-point operations of one text of `tokens` tokens, forward; 2 for a multiply-add.

    Only matrix products count: the weights of a layer [4 D^2 + 2 D F in BERT] meet every token, and
    attention's two products bring every token together with every other [2 S^2 D a layer], windows
    or not: tokens of a text that do not see each other are masked. DeBERTa's tokens meet all
    distances from -S to S as well, for each of its terms; that a batch projects those once is left
    out.
    """
    weights = sum(math.prod(config.dense_shapes[name]) for name in DENSE)
    products = 2 + 2 * len(config.distances.terms if config.distances else ())
    return 2 * config.num_layers * (tokens * weights + products * tokens**2 * config.hidden_size)
