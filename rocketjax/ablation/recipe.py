"""sentence-transformers' standard recipe on the same lists, in a process of its own.

The retriever trains by MultipleNegativesRankingLoss with the mined hard negatives, the re-ranker by
CrossEncoderTrainer on single pairs (BinaryCrossEntropyLoss, a positive weighing as much as its
negatives together, as its guide advises): on as many pairs as rocketjax saw, in as many steps, at
the same learning rates.

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
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import get_device_name
from transformers import TrainerCallback


def train_retriever(work: dict[str, Any], folder: Path) -> None:
    """On rows of query, positive, negative_1 ..; a batch's other passages are negatives, too."""
    model = SentenceTransformer(work["weights"])
    model.max_seq_length = work["tokens"]
    arguments = SentenceTransformerTrainingArguments(str(folder), **_common(work))
    data = Dataset.from_list(work["data"])
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(
        model, arguments, train_dataset=data, loss=loss, callbacks=[Steps()]
    ).train()
    model.save_pretrained(str(folder))


def train_reranker(work: dict[str, Any], folder: Path) -> None:
    """On rows of query, passage, label."""
    model = CrossEncoder(work["weights"], num_labels=1, max_length=work["tokens"])
    arguments = CrossEncoderTrainingArguments(str(folder), **_common(work))
    data = Dataset.from_list(work["data"])
    loss = BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(work["positive"]))
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
