"""The other side, in a process of its own: sentence-transformers, and a plain PyTorch train step.

Started by `pair.py` with a file of work; reads the name of a task a line, answers with a JSON line
of the seconds that one run took. The first run of a task tries batch sizes and keeps the best.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax
from transformers import AutoModel, AutoTokenizer

from rocketjax.bench.measure import Answer, answer
from rocketjax.bench.work import Work

BATCHES = (8, 16, 32, 64, 128)


GPU_BATCHES = (64, 256, 1024)


class Rivals:
    """Tasks by the names that `Ours` has."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.batch: dict[str, int] = {}

    def encode(self) -> Callable[[int], Any]:
        """SentenceTransformer.encode."""
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(self.work.weights, model_kwargs=precision())
        model.max_seq_length = self.work.passage_length
        return lambda batch: model.encode(self.work.passages, batch_size=batch)

    def rerank(self) -> Callable[[int], Any]:
        """CrossEncoder.predict."""
        from sentence_transformers import CrossEncoder

        model = CrossEncoder(
            self.work.weights,
            num_labels=1,
            max_length=self.work.pair_length,
            model_kwargs=precision(),
        )
        return lambda batch: model.predict(self.work.pairs, batch_size=batch)

    def train(self) -> Callable[[int], Any]:
        """The same step, written plainly: shared tower, re-ranker, AdamW, padded to the longest."""
        pass

        step = make_step(self.work)
        return lambda _: step()

    def best(self, name: str, run: Callable[[int], Any]) -> int:
        """Its best batch size, by one run each after one to warm up."""
        if name == "train":
            run(0)
            return 0
        batches = GPU_BATCHES if on_gpu() else BATCHES
        run(batches[0])
        taken = {batch: _seconds(run, batch) for batch in batches}
        return min(taken, key=taken.__getitem__)


def on_gpu() -> bool:
    """Whether sentence-transformers would compute on one."""
    from sentence_transformers.util import get_device_name

    return get_device_name() == "cuda"


def precision() -> dict[str, Any]:
    """bfloat16 on a GPU, as rocketjax has it there."""
    return {"dtype": "bfloat16"} if on_gpu() else {}


def _seconds(run: Callable[[int], Any], batch: int) -> float:
    started = time.perf_counter()
    run(batch)
    return time.perf_counter() - started


def main() -> None:
    """Answers until its input ends."""
    rivals = Rivals(Work.read(Path(sys.argv[1])))
    tasks: dict[str, Callable[[int], Any]] = {}

    def run(name: str) -> Answer:
        if name not in tasks:
            tasks[name] = getattr(rivals, name)()
            rivals.batch[name] = rivals.best(name, tasks[name])
        batch = rivals.batch[name]
        setting = f"its batch size {batch}" if batch else ""
        return {"seconds": _seconds(tasks[name], batch), "setting": setting}

    answer(run)


if __name__ == "__main__":
    main()


TEMPERATURE, DISTILL = 0.05, 0.3  # as ours.LOSS has it


def make_step(work: Work) -> Callable[[], float]:
    """One optimizer step over all lists; returns the loss.

    Mean pooling, cosines over a temperature, listwise cross-entropies, KL from the re-ranker's
    stopped distribution; texts padded to the longest of the batch; SDPA; compiled on a GPU.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(work.weights)
    retriever, encoder = (
        AutoModel.from_pretrained(
            work.weights, attn_implementation="sdpa", use_safetensors=True
        ).to(device)
        for _ in range(2)
    )
    head = nn.Linear(encoder.config.hidden_size, 1).to(device)
    modules = nn.ModuleList([retriever, encoder, head]).train()
    for module in modules.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # as ours, by default
    if device.type == "cuda":
        retriever, encoder = torch.compile(retriever), torch.compile(encoder)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=5e-5, weight_decay=0.01)
    queries = [query for query, _ in work.lists]
    passages = [text for _, texts in work.lists for text in texts]
    slots = len(work.lists[0][1])
    repeated = [query for query in queries for _ in range(slots)]
    precision = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def vectors(texts: list[str], length: int) -> torch.Tensor:
        batch = tokenizer(
            texts, padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        batch = batch.to(device)
        hidden = retriever(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    def step() -> float:
        with precision:
            query = vectors(queries, work.query_length)
            passage = vectors(passages, work.passage_length).view(len(queries), slots, -1)
            pairs = tokenizer(
                repeated,
                passages,
                padding=True,
                truncation="only_second",
                max_length=work.pair_length,
                return_tensors="pt",
            ).to(device)
            ce = head(encoder(**pairs).last_hidden_state[:, 0]).view(len(queries), slots).float()
        de = torch.einsum("bd,bld->bl", query.float(), passage.float()) / TEMPERATURE
        first = torch.zeros(len(queries), dtype=torch.long, device=device)
        teacher = softmax(ce.detach(), -1)
        distill = kl_div(log_softmax(de, -1), teacher, reduction="batchmean")
        loss = cross_entropy(de, first) + cross_entropy(ce, first) + DISTILL * distill
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step
