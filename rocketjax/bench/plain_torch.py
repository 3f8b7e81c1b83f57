"""A joint train step as one would write it in PyTorch: what rocketjax's step is compared with."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax
from transformers import AutoModel, AutoTokenizer

from rocketjax.bench.work import Work

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
