"""Exact search as one would write it in PyTorch, in a process of its own: a product and topk."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from rocketjax.bench.measure import Answer, answer
from rocketjax.retrieval.vectors import Vectors


def main() -> None:
    """Answers with the seconds of a search of all queries at once, until its input ends."""
    folder = Path(sys.argv[1])
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    stored = Vectors(Path(work["vectors"]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vectors = torch.from_numpy(stored.rows(0, len(stored)).astype(np.float32)).to(device)
    queries = torch.from_numpy(np.load(folder / "queries.npy")).to(device)

    def search(_: str) -> Answer:
        started = time.perf_counter()
        torch.topk(queries @ vectors.T, work["top_k"], dim=1).indices.cpu()
        return {"seconds": time.perf_counter() - started, "setting": "torch, matmul and topk"}

    answer(search)


if __name__ == "__main__":
    main()
