"""How long a served query takes: retrieve 50 passages and re-rank them, for several clients.

Clients are threads that ask their next query as soon as the last one is answered, through the
batcher of rocketjax.serve. HTTP is in neither side's times.
"""

import dataclasses
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from rocketjax.bench.measure import machine, worker_process
from rocketjax.bench.mine import indexed
from rocketjax.bench.work import Ours
from rocketjax.data.collection import Collection, Split
from rocketjax.retrieval.model import Corpus
from rocketjax.runtime.progress import Say, Watch
from rocketjax.serving.answers import Answers, for_requests
from rocketjax.serving.batcher import Batcher
from rocketjax.serving.requests import Limits

DEPTH = 50
CLIENTS = (1, 8, 32)
BUDGET = 300.0  # milliseconds for re-ranking, of our second row
RIVALS = {"torch": "sentence-transformers", "int8": "the same, re-ranking by ONNX Runtime in int8"}


class Latency(NamedTuple):
    """What the clients of one side saw."""

    side: str
    clients: int
    median: float  # milliseconds
    p99: float
    rate: float  # queries a second, of all clients
    reranked: float = DEPTH  # passages of a query, on average


def measure(
    ours: Ours, collection: Collection, split: Split, folder: Path, say: Say, watch: Watch
) -> Iterator[Latency]:
    """Each side with each number of clients, one after the other; ours with a budget too.

    Args:
        split: its queries are asked in turn, over and over.
        folder: of the corpus' vectors, which both sides search; those that are there stay.
    """
    queries = list(split.queries.values())
    index = indexed(ours, collection, queries, folder, say, watch)
    serving = Ours(ours.work, for_requests(ours.compute))  # as rocketjax.serve computes
    answers = Answers(serving.retriever, serving.reranker, Corpus(index, collection.by_id), DEPTH)
    answers.warm_up()
    yield from _own("rocketjax", answers, queries, say)
    within = dataclasses.replace(answers, budget_ms=BUDGET)
    yield from _own(f"rocketjax, --budget-ms {BUDGET:g}", within, queries, say)
    yield from _rivals(ours, collection, queries, folder, say)


def _own(side: str, answers: Answers, queries: Sequence[str], say: Say) -> Iterator[Latency]:
    limits, reranked = Limits(), list[int]()
    with Batcher(limits.together, limits.waiting, 1e-3 * limits.gather) as batcher:

        def ask(query: str) -> None:
            ((ranking,), _) = batcher.submit(answers.search, [query], DEPTH).result().result
            reranked.append(sum(passage.reranker_rank is not None for passage in ranking))

        for clients in CLIENTS:
            say(f"serve: {side}, {clients} clients")
            reranked.clear()
            times = latency(side, clients, *asked(ask, queries, clients))
            yield times._replace(reranked=float(np.mean(reranked[1:])))  # the first warms up


def _rivals(
    ours: Ours, collection: Collection, queries: Sequence[str], folder: Path, say: Say
) -> Iterator[Latency]:
    work = {
        "weights": ours.work.weights,
        "reranker": ours.work.reranker or ours.work.weights,
        "query_length": ours.work.query_length,
        "pair_length": ours.work.pair_length,
        "vectors": str(folder.resolve()),
        "passages": [passage.whole for passage in collection.passages],
        "queries": list(queries),
        "depth": DEPTH,
    }
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "work.json"
        path.write_text(json.dumps(work), "utf-8")
        for runtime, side in RIVALS.items():
            with worker_process("rocketjax.bench.rivals.serving", path) as rival:
                for clients in CLIENTS:
                    say(f"serve: {side}, {clients} clients")
                    found = rival(f"{runtime} {clients}")
                    yield latency(side, clients, found["each"], found["all"])


def asked(
    ask: Callable[[str], object], queries: Sequence[str], clients: int
) -> tuple[list[float], float]:
    """Seconds that each query took, and all of them; after one query to warm up."""
    count, lock, each = max(24, 3 * clients), threading.Lock(), []
    ask(queries[0])

    def client(number: int) -> None:
        for i in range(number, count, clients):
            began = time.perf_counter()
            ask(queries[i % len(queries)])
            with lock:
                each.append(time.perf_counter() - began)

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return each, time.perf_counter() - began


def latency(side: str, clients: int, each: Sequence[float], whole: float) -> Latency:
    """The figures of seconds that queries took, and that all took together."""
    median, p99 = np.percentile(each, (50, 99)) * 1e3
    return Latency(side, clients, float(median), float(p99), len(each) / whole)


def latencies_table(found: Sequence[Latency]) -> Table:
    """A row for each side and number of clients."""
    table = Table(title=machine())
    table.add_column(f"retrieve {DEPTH}, re-rank")
    for name in ("clients", "re-ranked", "median, ms", "99th percentile, ms", "queries/s"):
        table.add_column(name, justify="right")
    for row in found:
        times = (f"{row.median:,.0f}", f"{row.p99:,.0f}", f"{row.rate:.2f}")
        table.add_row(row.side, str(row.clients), f"{row.reranked:.1f}", *times)
    return table
