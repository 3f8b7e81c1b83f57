"""rocketjax's side: each task is made ready once, and then run again and again."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import jax

from rocketjax import steps
from rocketjax.augment import TrainingList
from rocketjax.batch import ListBatch
from rocketjax.bench.work import Work
from rocketjax.config import (
    ComputeConfig,
    LossConfig,
    OptimizerConfig,
    RerankerConfig,
    RetrieverConfig,
    TextConfig,
)
from rocketjax.data.loader import Collator
from rocketjax.data.passages import Passage
from rocketjax.inference import Reranker, Retriever
from rocketjax.losses import joint_weights
from rocketjax.model_folder import laid_out, start_reranker, start_retriever
from rocketjax.optim import make_optimizer
from rocketjax.parallel import PerDevice, data_parallel, replicate
from rocketjax.state import TrainState, init_state

LOSS = LossConfig(retriever_temperature=0.05)


class Ours:
    """The tasks, each a function that does all of its work once."""

    def __init__(self, work: Work, compute: ComputeConfig) -> None:
        self.work, self.compute = work, compute
        text = TextConfig(work.query_length, work.passage_length, work.pair_length)
        self.retriever: Retriever = start_retriever(RetrieverConfig(work.weights), text, compute)
        self.reranker: Reranker = start_reranker(RerankerConfig(work.weights), text, compute, 1)

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
        terms = steps.joint_terms_of(self.retriever.module, self.reranker.module, LOSS, chunk)
        step = partial(
            steps.train_step, terms_of=terms, weights=joint_weights(LOSS), optimizer=optimizer
        )
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


def seconds(run: Callable[[], object]) -> float:
    """How long one run takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
