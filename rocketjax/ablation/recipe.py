"""sentence-transformers' recipes on the same lists, in a process of its own.

What its guides advise for a retriever: MultipleNegativesRankingLoss with the mined hard negatives,
or the scores of a teacher by DistillKLDivLoss or MarginMSELoss. For a re-ranker: single pairs by
BinaryCrossEntropyLoss, a positive weighing as much as its negatives together, or whole lists by
LambdaLoss or ListNetLoss. All on as many pairs as rocketjax saw, in as many steps, at the same
learning rates.

Started by rivals.py as `python -m rocketjax.ablation.recipe retriever|reranker FOLDER`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.cross_encoder.losses import (
    BinaryCrossEntropyLoss,
    LambdaLoss,
    ListNetLoss,
)
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    MarginMSELoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import get_device_name, pairwise_cos_sim
from transformers import TrainerCallback


def train_retriever(work: dict[str, Any], folder: Path) -> None:
    """On rows of query, positive, negative_1 .. and, for distillation, label: the teacher's scores.

    Without a teacher, a batch's other passages are negatives, too.
    """
    model = SentenceTransformer(work["weights"])
    model.max_seq_length = work["tokens"]

    def similarity(queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        # Cosines alone are too close to each other for a teacher's scores.
        return pairwise_cos_sim(queries, passages) / work["temperature"]

    loss = {
        "negatives": lambda: MultipleNegativesRankingLoss(model),
        "kl": lambda: DistillKLDivLoss(model, similarity),
        "margin": lambda: MarginMSELoss(model, similarity),
    }[work["loss"]]()
    arguments = SentenceTransformerTrainingArguments(str(folder), **_common(work))
    data = Dataset.from_list(work["data"])
    SentenceTransformerTrainer(
        model, arguments, train_dataset=data, loss=loss, callbacks=[Steps()]
    ).train()
    model.save_pretrained(str(folder))


def train_reranker(work: dict[str, Any], folder: Path) -> None:
    """On rows of query, passage, label, or of query, passages, labels."""
    model = CrossEncoder(work["weights"], num_labels=1, max_length=work["tokens"])
    loss = {
        "pairs": lambda: BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(work["positive"])),
        "lambda": lambda: LambdaLoss(model),
        "listnet": lambda: ListNetLoss(model),
    }[work["loss"]]()
    arguments = CrossEncoderTrainingArguments(str(folder), **_common(work))
    data = Dataset.from_list(work["data"])
    CrossEncoderTrainer(
        model, arguments, train_dataset=data, loss=loss, callbacks=[Steps()]
    ).train()
    model.save_pretrained(str(folder))


class Steps(TrainerCallback):
    """Reports every step to the process that started this one."""

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        print("step", flush=True)


def _common(work: dict[str, Any]) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": work["batch"],
        "learning_rate": work["rate"],
        "num_train_epochs": 1,
        "warmup_steps": 0.1,  # a share of the steps
        "bf16": get_device_name() == "cuda",  # as rocketjax computes on a GPU
        "seed": work["seed"],
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


if __name__ == "__main__":
    train = {"retriever": train_retriever, "reranker": train_reranker}[sys.argv[1]]
    target = Path(sys.argv[2])  # holds work.json, and the model in the end
    train(json.loads((target / "work.json").read_text(encoding="utf-8")), target)
