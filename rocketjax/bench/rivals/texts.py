"""The other side of encode, rerank and train: sentence-transformers, and a plain PyTorch step.

Started by bench/work.py with a file of work. For the name of a task, and of a runtime unless it is
torch's own, it answers with the seconds of one run; the first run tries batch sizes and keeps the
fastest.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax
from transformers import AutoModel, AutoTokenizer

from rocketjax.bench.measure import Answer, answer, taken
from rocketjax.bench.rivals import flag, runtimes
from rocketjax.bench.work import LOSS, TEMPERATURE, Work
from rocketjax.config.loss import resolve_loss

BATCHES = (8, 16, 32, 64, 128)
GPU_BATCHES = (64, 256, 1024)


def main() -> None:
    """Answers until its input ends."""
    rivals = Rivals(Work.read(Path(sys.argv[1])))
    makers = {"encode": rivals.encode, "rerank": rivals.rerank}
    tasks: dict[str, Callable[[int], Any]] = {}
    batches: dict[str, int] = {}

    def run(name: str) -> Answer:
        if name not in tasks:
            task, _, runtime = name.partition(" ")
            tasks[name] = rivals.train() if task == "train" else makers[task](runtime or "torch")
            batches[name] = fastest_batch(name, tasks[name])
        batch = batches[name]
        setting = f"its batch size {batch}" if batch else ""
        took = taken(lambda: tasks[name](batch))
        return {"seconds": took.wall, "processor": took.processor, "setting": setting}

    answer(run)


class Rivals:
    """Every task as a function of the batch size, by the name that it has in `Ours`."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def encode(self, runtime: str) -> Callable[[int], Any]:
        """SentenceTransformer.encode, or the same in another runtime."""
        from sentence_transformers import SentenceTransformer

        if runtime in runtimes.EXPORTED:
            return runtimes.encode(runtime, self.work)
        model = SentenceTransformer(self.work.weights, model_kwargs=precision())
        model.max_seq_length = self.work.passage_length
        if runtime == "compiled":
            encoder: Any = model[0]
            encoder.auto_model.compile(dynamic=True)
        return lambda batch: model.encode(self.work.passages, batch_size=batch)

    def rerank(self, runtime: str) -> Callable[[int], Any]:
        """CrossEncoder.predict, the same in another runtime, or FlagEmbedding's re-ranker."""
        from sentence_transformers import CrossEncoder

        if runtime == "flag":
            return flag.rerank(self.work, on_gpu())
        if runtime in runtimes.EXPORTED:
            return runtimes.rerank(runtime, self.work)
        model: Any = CrossEncoder(
            self.work.reranker or self.work.weights,
            num_labels=1,
            max_length=self.work.pair_length,
            model_kwargs=precision(),
        )
        if runtime == "compiled":
            model.model.compile(dynamic=True)
        return lambda batch: model.predict(self.work.pairs, batch_size=batch)

    def train(self) -> Callable[[int], Any]:
        """A joint step, whose batch is all lists."""
        step = make_step(self.work)
        return lambda _: step()


def fastest_batch(name: str, run: Callable[[int], Any]) -> int:
    """By one run with each batch size, after one to warm up; 0 for training, which has none.

    By processor time on a CPU, where other jobs may be at work.
    """
    if name == "train":
        run(0)
        return 0
    batches, clock = (GPU_BATCHES, "wall") if on_gpu() else (BATCHES, "processor")
    run(batches[0])
    return min(batches, key=lambda batch: getattr(taken(lambda: run(batch)), clock))


def on_gpu() -> bool:
    """Whether sentence-transformers would compute on one."""
    from sentence_transformers.util import get_device_name

    return get_device_name() == "cuda"


def precision() -> dict[str, Any]:
    """bfloat16 on a GPU, as in rocketjax."""
    return {"dtype": "bfloat16"} if on_gpu() else {}


def make_step(work: Work) -> Callable[[], float]:
    """One optimizer step over all lists; returns the loss.

    A shared tower with mean pooling, cosines over a temperature, a re-ranker; listwise
    cross-entropies, KL from the re-ranker's stopped distribution; AdamW. Texts are padded to the
    longest of the batch; SDPA; compiled on a GPU.
    """
    return JointStep(work).run


class JointStep:
    """The joint step as one would write it in PyTorch."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        cuda = self.device.type == "cuda"
        self.tokenizer = AutoTokenizer.from_pretrained(work.weights)
        retriever, reranker = self._encoder(), self._encoder()
        self.head = nn.Linear(reranker.config.hidden_size, 1).to(self.device)
        modules = nn.ModuleList([retriever, reranker, self.head]).train()
        for module in modules.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # as ours, by default
        self.parameters = list(modules.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=5e-5, weight_decay=0.01)
        self.retriever = torch.compile(retriever) if cuda else retriever
        self.reranker = torch.compile(reranker) if cuda else reranker
        self.precision = torch.autocast(self.device.type, torch.bfloat16, enabled=cuda)

    def run(self) -> float:
        """One step; returns the loss."""
        queries = [query for query, _ in self.work.lists]
        passages = [text for _, texts in self.work.lists for text in texts]
        lists, slots = len(queries), len(self.work.lists[0][1])
        with self.precision:
            query = self._vectors(queries, self.work.query_length)
            passage = self._vectors(passages, self.work.passage_length).view(lists, slots, -1)
            repeated = [query for query in queries for _ in range(slots)]
            ce = self._scores(repeated, passages).view(lists, slots).float()
        de = torch.einsum("bd,bld->bl", query.float(), passage.float())
        loss = self._loss(de / TEMPERATURE, ce)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.item()

    def _encoder(self) -> Any:
        model = AutoModel.from_pretrained(
            self.work.weights, attn_implementation="sdpa", use_safetensors=True
        )
        return model.to(self.device)

    def _vectors(self, texts: list[str], length: int) -> torch.Tensor:
        batch = self.tokenizer(
            texts, padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(self.device)
        hidden = self.retriever(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    def _scores(self, queries: list[str], passages: list[str]) -> torch.Tensor:
        batch = self.tokenizer(
            queries,
            passages,
            padding=True,
            truncation="only_second",
            max_length=self.work.pair_length,
            return_tensors="pt",
        ).to(self.device)
        return self.head(self.reranker(**batch).last_hidden_state[:, 0])

    def _loss(self, de: torch.Tensor, ce: torch.Tensor) -> torch.Tensor:
        """Of both models' scores [B, L]."""
        first = torch.zeros(len(de), dtype=torch.long, device=self.device)
        teacher = softmax(ce.detach(), -1)
        distill = kl_div(log_softmax(de, -1), teacher, reduction="batchmean")
        weight = resolve_loss(LOSS).distill_weight
        return cross_entropy(de, first) + cross_entropy(ce, first) + weight * distill


if __name__ == "__main__":
    main()
