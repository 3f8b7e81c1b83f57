"""The search page and its API: what they answer and refuse, together as alone, under load."""

import asyncio
import dataclasses
import itertools
import json
import os
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Queue

import httpx2
import numpy as np
import pytest
from on_disk import TOPICS, WORDS, untrained_pair
from starlette.testclient import TestClient
from test_under_load import GROWTH, compiled, linux, resident
from waiting import until

from rocketjax import encode, serve
from rocketjax.config.options import dump
from rocketjax.config.schema import ComputeConfig, Config, DataConfig, TextConfig
from rocketjax.data.passages import Passage
from rocketjax.inference.batching import Batching, of_every_shape, plan
from rocketjax.inference.folder import save_reranker, save_retriever
from rocketjax.retrieval.model import Model
from rocketjax.serving import server as server_module
from rocketjax.serving.app import LOOPBACK, make_app
from rocketjax.serving.batcher import Batcher, Full
from rocketjax.serving.budget import rerank_within
from rocketjax.serving.requests import Limits, Refused, read_score, read_search
from rocketjax.text.rows import NARROW, WIDE

TEXT = TextConfig(query_length=12, passage_length=32, pair_length=48)
DEPTH = 24
HOSTILE = [
    ("<b>bold</b>", "<img src=x onerror=\"document.title='owned'\"> cat purr"),
    ("<script>document.title='owned'</script>", "</div></li><script>alert(1)</script> dog"),
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
    """The folder of a run as it ends, untrained: both models, an index and its config."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    corpus = folder.with_name("corpus.jsonl")
    rng = np.random.default_rng(0)
    texts = [("", " ".join(rng.choice(WORDS, rng.integers(2, 50)))) for _ in range(DEPTH + 6)]
    rows = [
        {"_id": f"p{i}", "title": title, "text": text}
        for i, (title, text) in enumerate(HOSTILE + texts)
    ]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pair = untrained_pair(weights, TEXT, ComputeConfig(batch=4))
    folder.mkdir()
    save_retriever(folder / "retriever", pair.retriever)
    save_reranker(folder / "reranker", pair.reranker)
    config = Config(str(folder), data=DataConfig(str(corpus)))
    (folder / "config.yaml").write_text(dump(config))
    args = ["--model", str(folder), "--collection", str(corpus)]
    assert encode.main([*args, "--output", str(folder / "index"), "--compute.batch", "4"]) == 0
    return folder


@pytest.fixture(scope="module")
def answers(run):
    answers = serve.open_answers(serve.Serve(str(run), depth=DEPTH))
    answers.warm_up()
    return answers


@contextmanager
def api(answers, **limits):
    """A client of the app, without a server, and what runs its requests."""
    limits = Limits(**limits)
    batching = Batcher(limits.together, limits.waiting, 1e-3 * limits.gather)
    with batching as batcher:
        app = make_app(answers, batcher, limits, "runs/tiny", LOOPBACK)
        with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
            yield client, batcher


def test_inside_a_running_loop_it_says_what_to_do_and_the_app_runs_there(answers, run, capsys):
    """As in a cell of a notebook."""

    async def cell():
        status = serve.main(["--model", str(run), "--port", "0"])
        limits = Limits()
        with Batcher(limits.together, limits.waiting, 1e-3 * limits.gather) as batcher:
            app = make_app(answers, batcher, limits, "runs/tiny")
            async with httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1"
            ) as client:
                return status, await client.get("/search?q=cat")

    status, found = asyncio.run(cell())
    assert (status, found.status_code) == (2, 200)
    said = capsys.readouterr()
    assert "an event loop runs here already" in said.err and "subprocess.Popen" in said.err
    assert "compiling" not in said.out


@contextmanager
def held(batcher):
    """Nothing is run meanwhile: the thread is busy."""
    begun, go_on = threading.Event(), threading.Event()

    def work(items):
        begun.set()
        assert go_on.wait(60)
        return items

    job = batcher.submit(work, None, 1)
    assert begun.wait(60)
    try:
        yield
    finally:
        go_on.set()
        job.result(60)


def near(one, other):
    """Two answers: the same passages and ranks, the same scores but for float error."""
    for a, b in zip(one["results"], other["results"], strict=True):
        assert a["query"] == b["query"]
        for p, q in zip(a["passages"], b["passages"], strict=True):
            for name in p:
                if name.endswith("_score"):
                    np.testing.assert_allclose(p[name], q[name], rtol=1e-5, atol=1e-6)
                else:
                    assert p[name] == q[name]


# ---- the API


def test_a_search_gives_both_rankings_as_the_model_does(answers):
    model = Model(answers.retriever, answers.reranker, lambda: answers.corpus)
    with api(answers) as (client, _):
        answer = client.get("/search", params={"q": TOPICS[0], "top_k": 5}).json()
        assert (
            client.post("/search", json={"query": TOPICS[0], "top_k": 5}).json()["results"]
            == (answer["results"])
        )
    passages = answer["results"][0]["passages"]
    hits = model.search(TOPICS[0], top_k=DEPTH, depth=DEPTH)
    found = model.search(TOPICS[0], top_k=DEPTH, depth=0)
    rank = {hit.passage.id: i for i, hit in enumerate(found, 1)}
    expected = [
        (hit, i)
        for i, hit in enumerate(hits, 1)
        if i <= 5 or rank[hit.passage.id] <= 5  # of either
    ]
    for passage, (hit, i) in zip(passages, expected, strict=True):
        assert [passage[name] for name in ("id", "title", "text")] == [*hit.passage]
        assert (passage["reranker_rank"], passage["retriever_rank"]) == (i, rank[hit.passage.id])
        assert passage["move"] == rank[hit.passage.id] - i
        assert passage["reranker_score"] == pytest.approx(hit.reranker_score, rel=1e-5, abs=1e-6)
        assert passage["retriever_score"] == pytest.approx(hit.retriever_score, rel=1e-5)
    assert {p["move"] > 0 for p in passages} == {True, False}  # else nothing was re-ranked
    times = answer["latency_ms"]
    assert list(times) == ["queue", "encode", "search", "rerank", "total"]
    assert all(ms >= 0 for ms in times.values()) and times["rerank"] > 0
    assert sum(times.values()) - times["total"] <= times["total"] + 0.05  # rounded


def test_several_queries_are_answered_in_order(answers):
    with api(answers) as (client, _):
        both = client.post("/search", json={"query": TOPICS[:3], "top_k": 2}).json()
        assert [result["query"] for result in both["results"]] == TOPICS[:3]
        for topic, result in zip(TOPICS, both["results"], strict=False):
            near({"results": [result]}, client.get(f"/search?q={topic}&top_k=2").json())


def test_score_gives_the_re_rankers_scores_with_titles_or_without(answers):
    passages = ["cat purr", {"title": "sun", "text": "ray"}, {"text": "dog"}]
    passages.append({"title": "sea", "text": ""})
    with api(answers) as (client, _):
        answer = client.post("/score", json={"query": "cat", "passages": passages}).json()
    scores = answers.reranker.score(
        ["cat"] * 4, ["cat purr", "ray", "dog", ""], ["", "sun", "", "sea"]
    )
    np.testing.assert_allclose(answer["scores"], scores, rtol=1e-5, atol=1e-6)
    assert answer["order"] == np.argsort(-scores).tolist()
    assert list(answer["latency_ms"]) == ["queue", "rerank", "total"]


def test_health_tells_what_is_served(answers):
    with api(answers) as (client, batcher):
        client.get("/search?q=cat")
        assert client.get("/health").json() == {
            "ready": True,
            "model": "runs/tiny",
            "passages": DEPTH + 8,
            "depth": DEPTH,
            "budget_ms": None,
            "answered": 1,
            "queries": 1,
            "cut_short": 0,
            "batches": batcher.batches,
            "waiting": 0,
        }


# ---- together


def test_requests_that_come_together_run_together_and_give_what_they_give_alone(answers):
    queries = [" ".join(WORDS[i : i + 1 + i % 5]) for i in range(12)]

    def search(query):
        return client.get("/search", params={"q": query}).json()

    def score(query):
        return client.post("/score", json={"query": query, "passages": TOPICS}).json()

    with api(answers) as (client, batcher), ThreadPoolExecutor(24) as pool:
        alone = [search(query) for query in queries], [score(query) for query in queries]
        assert batcher.batches == 24 and {a["together"] for a in alone[0]} == {1}
        with held(batcher):
            waiting = [[pool.submit(ask, q) for q in queries] for ask in (search, score)]
            until(lambda: len(batcher) == 24)
        together = [[future.result(60) for future in some] for some in waiting]
        # 12 searches of 24 passages and 12 lists of 5 to score, 400 pairs at most together.
        assert batcher.batches == 24 + 1 + 2
    assert {a["together"] for a in together[0] + together[1]} == {12}
    for one, other in zip(alone[0], together[0], strict=True):
        near(one, other)
    for one, other in zip(alone[1], together[1], strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"], rtol=1e-5, atol=1e-6)


def test_a_batch_takes_the_oldest_of_a_kind_as_far_as_there_is_room():
    ran = []

    def work(items):
        ran.append(items)
        return items

    def other(items):
        return work(items)

    with Batcher(most=10, waiting=99, gather=0.0) as batcher:
        with held(batcher):
            jobs = [
                batcher.submit(kind, name, size)
                for kind, name, size in (
                    (work, "a", 4),
                    (other, "b", 1),
                    (work, "c", 7),
                    (work, "d", 1),  # there would be room, but c is older
                    (other, "e", 1),
                    (work, "f", 99),
                )
            ]
        assert [job.result(60).result for job in jobs] == list("abcdef")
    assert ran == [["a"], ["b", "e"], ["c", "d"], ["f"]]


def test_one_that_fails_takes_no_other_with_it():
    def work(items):
        return [1 // item for item in items]

    with Batcher(most=10, waiting=99, gather=0.0) as batcher:
        with held(batcher):
            jobs = [batcher.submit(work, item, 1) for item in (1, 0, 1)]
        assert [jobs[i].result(60).result for i in (0, 2)] == [1, 1]
        assert isinstance(jobs[1].exception(60), ZeroDivisionError)


def test_as_many_queries_are_searched_at_once_as_pairs_allow():
    """A request that runs is not given up: the deeper, the fewer queries."""
    for depth, most in ((50, 32), (200, 8), (10, 32), (9_999, 1)):
        asked = json.dumps({"query": ["cat"] * most}).encode()
        assert len(read_search(asked, Limits(), depth).queries) == most
        asked = json.dumps({"query": ["cat"] * (most + 1)}).encode()
        with pytest.raises(Refused, match=f"query: expected 1 to {most} queries, got {most + 1}"):
            read_search(asked, Limits(), depth)


def test_a_panic_of_a_tokenizer_does_not_end_the_thread():
    class Panic(BaseException):
        """As Rust's, which is no Exception."""

    def work(items):
        raise Panic

    with Batcher(most=10, waiting=99, gather=0.0) as batcher:
        assert isinstance(batcher.submit(work, 1, 1).exception(60), Panic)
        assert batcher.submit(list, "b", 1).result(60).result == "b"


def test_what_waits_at_the_end_is_cancelled_and_what_runs_is_finished():
    with Batcher(most=1, waiting=9, gather=0.0) as batcher:
        begun = threading.Event()

        def work(items):
            begun.set()
            time.sleep(0.2)
            return items

        jobs = [batcher.submit(work, item, 1) for item in range(3)]
        assert begun.wait(60)
    assert jobs[0].result(0).result == 0
    assert jobs[1].cancelled() and jobs[2].cancelled()


def test_jobs_given_up_take_no_place_and_no_room():
    with Batcher(most=10, waiting=2, gather=0.0) as batcher:
        with held(batcher):
            for _ in range(3):  # full each time, were the two before still counted
                jobs = [batcher.submit(list, "a", 6) for _ in range(2)]
                with pytest.raises(Full):
                    batcher.submit(list, "a", 6)
                assert all(job.cancel() for job in jobs) and len(batcher) == 0
        assert batcher.submit(list, "b", 6).result(60).result == "b"  # its thread goes on
        with held(batcher):
            given_up, kept = (batcher.submit(list, item, 6) for item in "cd")
            given_up.cancel()
            last = batcher.submit(list, "e", 4)
        assert kept.result(60).together == last.result(60).together == 2


# ---- a budget for the re-ranker


class Slow:
    """A re-ranker whose score of a passage is its text; block i takes `seconds[i]` of a clock."""

    def __init__(self, seconds, size):
        self.seconds, self.size, self.now = seconds, size, 0.0

    def score_in_blocks(self, queries, passages, titles):
        for i, seconds in enumerate(self.seconds):
            self.now += seconds
            yield np.array(passages[i * self.size :][: self.size], float)


@pytest.mark.parametrize(
    ("seconds", "budget_ms", "blocks"),
    [
        ([0.1, 0.1, 0.1], 1_000, 3),
        ([0.1, 0.1, 0.1], 250, 2),
        ([0.1, 0.1, 0.1], 199, 1),  # a second block would not end in time, so it is not begun
        ([0.05, 0.15, 0.1], 300, 2),  # the slowest block so far is what the next is expected to be
        ([0.1, 0.1, 0.1], 0.001, 1),  # the first is always scored
    ],
)
def test_blocks_are_begun_only_if_they_are_expected_to_end_in_time(seconds, budget_ms, blocks):
    found = {"a": [(f"p{i}", 0.0) for i in range(5)], "b": [("p5", 0.0)]}
    passages = {f"p{i}": Passage(f"p{i}", "", str(i)) for i in range(6)}
    reranker = Slow(seconds, size=2)
    ranked = rerank_within(
        reranker, found, dict.fromkeys("ab", ""), passages, budget_ms, lambda: reranker.now
    )
    assert reranker.now == pytest.approx(sum(seconds[:blocks]))
    # First passages before second ones: p0 of a, p5 of b, then the rest of a.
    assert ranked["b"] == [("p5", 5.0)]
    assert ranked["a"] == [(f"p{i}", float(i)) for i in reversed(range(2 * blocks - 1))]


def test_what_the_budget_does_not_suffice_for_follows_as_retrieved(answers):
    hurried = dataclasses.replace(answers, budget_ms=0.001)
    before = len(compiled)
    with api(answers) as (client, _):
        whole = client.post("/search", json={"query": TOPICS[:2], "top_k": DEPTH}).json()
    with api(hurried) as (client, _):
        cut = client.post("/search", json={"query": TOPICS[:2], "top_k": DEPTH}).json()
        health = client.get("/health").json()
        first = client.post("/search", json={"query": TOPICS[:2], "top_k": 1}).json()
    assert len(compiled) == before
    assert (whole["budget_ms"], cut["budget_ms"]) == (None, 0.001)
    assert (health["budget_ms"], health["queries"], health["cut_short"]) == (0.001, 2, 2)
    for all_, some, one in zip(whole["results"], cut["results"], first["results"], strict=True):
        assert all_["retrieved"] == all_["reranked"] == some["retrieved"] == DEPTH
        count = some["reranked"]
        assert 1 < count < DEPTH
        head, tail = some["passages"][:count], some["passages"][count:]
        assert [p["reranker_rank"] for p in head] == list(range(1, count + 1))
        assert {p["retriever_rank"] for p in head} == set(range(1, count + 1))
        assert [p["retriever_rank"] for p in tail] == list(range(count + 1, DEPTH + 1))
        for passage in tail:
            names = "reranker_score", "reranker_rank", "move"
            assert [passage[name] for name in names] == [None] * 3
        scores = {p["id"]: p["reranker_score"] for p in all_["passages"]}
        for passage in head:
            assert passage["reranker_score"] == pytest.approx(scores[passage["id"]], abs=1e-5)
        top = [p for p in some["passages"] if 1 in (p["retriever_rank"], p["reranker_rank"])]
        assert [p["id"] for p in one["passages"]] == [p["id"] for p in top]


def test_a_budget_that_suffices_changes_nothing(answers):
    with api(answers) as (client, _):
        whole = client.get("/search", params={"q": TOPICS[0]}).json()
        ample = client.get("/search", params={"q": TOPICS[0], "budget_ms": 60_000}).json()
        health = client.get("/health").json()
    assert ample["budget_ms"] == 60_000 and ample["results"][0]["reranked"] == DEPTH
    assert (health["queries"], health["cut_short"]) == (2, 0)
    near(whole, ample)


def test_a_request_can_only_lower_the_servers_budget(answers):
    with api(dataclasses.replace(answers, budget_ms=50.0)) as (client, _):
        refused = client.get("/search?q=cat&budget_ms=51")
        assert refused.status_code == 422
        assert refused.json()["error"] == "budget_ms: expected at most 50 (--budget-ms), got 51"
        lower = client.get("/search?q=cat&budget_ms=0.001").json()
        assert lower["budget_ms"] == 0.001 and lower["results"][0]["reranked"] < DEPTH


def test_only_requests_of_one_budget_share_it(answers):
    def search(budget):
        return client.post("/search", json={"query": "cat", "budget_ms": budget}).json()

    with api(answers) as (client, batcher), ThreadPoolExecutor(4) as pool:
        with held(batcher):
            waiting = [pool.submit(search, budget) for budget in (0.001, 0.001, None, 60_000)]
            until(lambda: len(batcher) == 4)
        found = [future.result(60) for future in waiting]
    assert [one["together"] for one in found] == [2, 2, 1, 1]
    assert [one["results"][0]["reranked"] == DEPTH for one in found] == [False] * 2 + [True] * 2


@pytest.mark.parametrize("budget", ["0", "-5", "nan", "inf"])
def test_a_budget_that_is_none_is_refused_before_anything_is_read(capsys, budget):
    args = ["--model", "runs/nowhere", "--port", "0"]
    assert serve.main([*args, f"--budget-ms={budget}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --budget-ms") and len(err.splitlines()) == 1


# ---- what is refused

SMALL = {"queries": 2, "passages": 3, "characters": 50, "body": 500}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "message"),
    [
        ("GET", "/search", {}, 422, "query: Field required"),
        ("GET", "/search?q=%20", {}, 422, "query: expected non-empty text"),
        ("GET", "/search?q=cat&top_k=x", {}, 422, "top_k: Input should be a valid integer"),
        ("GET", "/search?q=cat&top_k=0", {}, 422, "top_k: expected 1 to 24 (--depth), got 0"),
        ("GET", "/search?q=cat&top_k=25", {}, 422, "top_k: expected 1 to 24 (--depth), got 25"),
        ("GET", "/search?q=cat&page=2", {}, 422, "page: Unexpected keyword argument"),
        ("GET", "/search?q=cat&budget_ms=0", {}, 422, "budget_ms: Input should be greater than 0"),
        ("GET", "/search?q=cat&budget_ms=-1", {}, 422, "budget_ms: Input should be greater than 0"),
        ("GET", "/search?q=cat&budget_ms=nan", {}, 422, "budget_ms: Input should be"),
        ("GET", "/search?q=cat&budget_ms=inf", {}, 422, "budget_ms: Input should be a finite num"),
        ("GET", "/search?q=cat&budget_ms=x", {}, 422, "budget_ms: Input should be a valid number"),
        ("POST", "/search", {"json": {"query": "a", "budget_ms": True}}, 422, "budget_ms: Value"),
        ("GET", "/search?q=cat&q=dog", {}, 422, "query: given twice; POST /search takes a list"),
        ("GET", "/search?q=cat&query=dog", {}, 422, "query: given twice"),
        ("POST", "/search?top_k=3", {"json": {"query": "a"}}, 422, "top_k: in the URL; a POST"),
        ("POST", "/score?q=", {"json": {"query": "a", "passages": ["b"]}}, 422, "q: in the URL"),
        ("GET", f"/search?q={'x' * 51}", {}, 422, "query: expected at most 50 characters, got 51"),
        ("POST", "/search", {"content": b"{"}, 400, "the body: Invalid JSON: EOF while parsing"),
        ("POST", "/search", {"content": b'{"query": "\xff"}'}, 400, "the body: Invalid JSON"),
        ("POST", "/search", {"content": rb'{"query": "\ud800"}'}, 400, "the body: Invalid JSON"),
        ("POST", "/search", {"content": b"[" * 499}, 400, "JSON: recursion limit"),
        ("POST", "/search", {"json": []}, 422, "the body: Input should be an object"),
        ("POST", "/search", {"json": {"query": 3}}, 422, "query: Input should be a valid array"),
        ("POST", "/search", {"json": {"query": []}}, 422, "query: expected 1 to 2 queries, got 0"),
        ("POST", "/search", {"json": {"query": ["a"] * 3}}, 422, "1 to 2 queries, got 3"),
        ("POST", "/search", {"json": {"query": ["a", ""]}}, 422, "query.1: expected non-empty"),
        ("POST", "/search", {"json": {"query": "a", "top_k": "3"}}, 422, "top_k: Input should be"),
        ("POST", "/search", {"json": {"query": "a" * 500}}, 413, "at most 500 bytes, got more"),
        ("POST", "/search", {"data": {"query": "a"}}, 415, "expected application/json, got app"),
        ("POST", "/score", {"json": {"query": "a"}}, 422, "passages: Field required"),
        ("POST", "/score", {"json": {"query": "a", "passages": "bbbb"}}, 422, "passages: Input"),
        ("POST", "/score", {"json": {"query": "a", "passages": ["b"] * 4}}, 422, "1 to 3 passages"),
        ("POST", "/score", {"json": {"query": "a", "passages": []}}, 422, "passages, got 0"),
        (
            "POST",
            "/score",
            {"json": {"query": "a", "passages": ["b", " "]}},
            422,
            "passages.1.text",
        ),
        (
            "POST",
            "/score",
            {"json": {"query": "a", "passages": ["b", {"title": "t"}]}},
            422,
            "passages.1.text: Field required",
        ),
        ("GET", "/score", {}, 405, "/score: expected POST"),
        ("GET", "/nowhere", {}, 404, "there are /, /search, /score and /health"),
        ("GET", "/health", {"headers": {"host": "evil.example"}}, 400, "Host: expected one of"),
        ("GET", "/", {"headers": {"host": "evil.example:8000"}}, 400, "got 'evil.example'"),
        (
            "GET",
            "/search?q=cat",
            {"headers": {"sec-fetch-site": "cross-site", "sec-fetch-dest": "iframe"}},
            403,
            "another site's page",
        ),
    ],
)
def test_a_bad_request_is_one_message_that_names_the_field(
    answers, method, path, sent, status, message
):
    with api(answers, **SMALL) as (client, batcher):
        if "content" in sent:
            sent = sent | {"headers": JSON}
        answer = client.request(method, path, **sent)
        assert answer.status_code == status and list(answer.json()) == ["error"]
        assert message in answer.json()["error"]
        assert batcher.batches == 0


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (lambda body: read_search(body, Limits(), DEPTH), {"query": [1] * 1_000}),
        (lambda body: read_score(body, Limits()), {"query": "a", "passages": [{}] * 1_000}),
    ],
)
def test_a_list_that_is_all_wrong_is_read_to_its_first_fault(read, body):
    with pytest.raises(Refused) as refused:  # half a million faults fit into a body, and take 5 s
        read(json.dumps(body).encode())
    assert refused.value.__cause__.error_count() == 1


def test_the_loopback_has_three_names(answers):
    with api(answers) as (client, _):
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"):
            assert client.get("/health", headers={"host": host}).status_code == 200
        for host in ("", "localhost.evil.example", "localhost:80:80", "127.0.0.1.evil", "::1"):
            assert client.get("/health", headers={"host": host}).status_code == 400


def test_links_of_other_sites_lead_here(answers):
    with api(answers) as (client, _):
        for site, kind in (("cross-site", "document"), ("same-origin", "empty"), ("none", "empty")):
            sent = {"sec-fetch-site": site, "sec-fetch-dest": kind}
            assert client.get("/health", headers=sent).status_code == 200


def test_a_full_queue_says_when_to_come_again(answers):
    with api(answers, waiting=2) as (client, batcher), ThreadPoolExecutor(2) as pool:
        with held(batcher):
            waiting = [pool.submit(client.get, "/search?q=cat") for _ in range(2)]
            until(lambda: len(batcher) == 2)
            answer = client.get("/search?q=cat")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json() == {"error": "2 requests are already waiting; try again"}
        assert [future.result(60).status_code for future in waiting] == [200, 200]


def test_a_request_is_given_up_in_time_and_is_not_run_later(answers):
    with api(answers, timeout=0.3) as (client, batcher):
        with held(batcher):
            answer = client.get("/search?q=cat")
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            assert answer.json() == {"error": "no answer within 0.3 s; try again"}
        assert batcher.batches == 1  # what held it


def test_a_fault_of_the_server_is_an_error_and_it_goes_on(answers, monkeypatch):
    with api(answers) as (client, _):
        with monkeypatch.context() as patch:
            patch.setattr(type(answers.corpus.index), "search", lambda *_: 1 // 0)
            answer = client.get("/search?q=cat")
        assert answer.status_code == 500
        assert answer.json()["error"].startswith("ZeroDivisionError: ")
        assert "content-security-policy" in answer.headers
        assert client.get("/search?q=cat").status_code == 200


def test_every_answer_forbids_other_sites_and_strange_code(answers):
    with api(answers) as (client, _):
        for path in ("/", "/health", "/search?q=cat", "/nowhere", "/search"):
            headers = client.get(path, headers={"origin": "http://evil.example"}).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'sha256-")
            assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert not [name for name in headers if name.startswith("access-control")]


# ---- the command


@contextmanager
def served(answers, **limits):
    """The address of a server in this process, and its batcher."""
    limits = Limits(**limits)
    with (
        Batcher(limits.together, limits.waiting, 1e-3 * limits.gather) as batcher,
        server_module.listen("127.0.0.1", 0) as listening,
    ):
        server = server_module.make_server(
            make_app(answers, batcher, limits, "runs/tiny", LOOPBACK), limits
        )
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", batcher
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_once_running_requests_are_answered(run, answers, monkeypatch, number):
    lines, got, begun = Queue(), [], threading.Event()
    search = type(answers).search

    def slowly(self, requests, *budget):
        if requests == [["cat"]]:
            begun.set()
            time.sleep(0.5)
        return search(self, requests, *budget)

    def client():
        line = ""
        while not line.startswith("ready"):
            line = lines.get(timeout=120)
        asking = threading.Thread(
            target=lambda: got.append(httpx2.get(f"{line.split()[2]}search?q=cat", timeout=60))
        )
        asking.start()
        assert begun.wait(60)
        os.kill(os.getpid(), number)
        asking.join()

    monkeypatch.setattr(serve, "say", lines.put)
    monkeypatch.setattr(type(answers), "search", slowly)
    other = threading.Thread(target=client)
    other.start()
    args = ["--model", str(run), "--port", "0", "--depth", str(DEPTH)]
    assert serve.main(args) == 0
    other.join()
    assert got[0].status_code == 200 and got[0].json()["results"][0]["passages"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_it_is_ready_ends_it_as_well(monkeypatch, capsys, number):
    monkeypatch.setattr(serve, "open_answers", lambda options: signal.raise_signal(number))
    assert serve.main(["--port", "0"]) == 0
    said = capsys.readouterr()
    assert said.out == "stopped\n" and said.err == ""


def test_beyond_the_loopback_it_warns_and_takes_any_name(run, monkeypatch, capsys):
    apps = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: apps.append(self.config.app))
    args = ["--model", str(run), "--port", "0", "--depth", str(DEPTH)]
    assert serve.main([*args, "--host", "0.0.0.0"]) == 0
    out = capsys.readouterr().out
    assert "warning: anyone who can reach 0.0.0.0 can search here" in out
    assert serve.main([*args, "--host", "localhost"]) == 0
    assert "warning" not in capsys.readouterr().out
    codes = [TestClient(app, "http://a.example").get("/health").status_code for app in apps]
    assert codes == [200, 400]


def test_an_address_that_cannot_be_had_is_named_before_the_model_is_read(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert serve.main(["--model", "runs/nowhere", "--port", port]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --host 127.0.0.1 --port {port}: Address already in use")
    assert "--port 0 for any free port" in err and len(err.splitlines()) == 1
    assert serve.main(["--model", "runs/nowhere", "--port", "0", "--host", "nowhere.invalid"]) == 2
    assert "--host nowhere.invalid" in capsys.readouterr().err
    assert serve.main(["--model", "runs/nowhere", "--port", "0", "--host", "a..b"]) == 2
    err = capsys.readouterr().err
    assert "--host a..b --port 0: " in err and "None" not in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("missing", ["index", "reranker", "retriever", "config.yaml"])
def test_a_folder_that_lacks_a_part_is_one_line(run, tmp_path, capsys, missing):
    folder = tmp_path / "part"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns(missing))
    assert serve.main(["--model", str(folder), "--port", "0"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and str(folder) in err and len(err.splitlines()) == 1
    assert missing in err


# ---- under load


def test_warming_up_compiles_every_shape_that_texts_may_take():
    def shapes(lengths):
        return {unit.shape for unit in plan(lengths, limit, batching, steady=True)}

    rng = np.random.default_rng(0)
    ways = (NARROW, False), (WIDE, True)
    for limit, size, slots, way in itertools.product((10, 48, 128), (1, 4, 16), (0, 256), ways):
        batching = Batching(size, *way, slots)
        warm = {unit.shape for unit in of_every_shape(limit, batching)}
        for _ in range(100):
            longest = int(rng.integers(1, limit + 1))
            assert shapes(rng.integers(1, longest + 1, rng.integers(1, 99)).tolist()) <= warm


def load(url, requests, threads=32):
    """Many clients at once, who come again when told so; how often each status was answered."""
    codes = []

    def ask(seed):
        rng = np.random.default_rng(seed)

        def texts(count):
            return [" ".join(rng.choice(WORDS, rng.integers(1, 60))) for _ in range(count)]

        kind = rng.integers(4)
        if kind == 0:
            passages = texts(rng.integers(1, 40))
            answer = post("/score", {"query": "cat", "passages": passages})
            assert sorted(answer["order"]) == list(range(len(passages)))
        else:
            queries, top_k = texts(rng.integers(1, 4)), int(rng.integers(1, DEPTH + 1))
            results = post("/search", {"query": queries, "top_k": top_k})["results"]
            assert [result["query"] for result in results] == queries
            assert all(len(result["passages"]) >= top_k for result in results)

    def post(path, body):
        while True:
            answer = client.post(url + path, json=body)
            codes.append(answer.status_code)
            if answer.status_code != 503:
                return answer.json()
            assert answer.headers["retry-after"] == "1" and "try again" in answer.json()["error"]
            time.sleep(0.5)

    limits = httpx2.Limits(max_connections=threads)
    with httpx2.Client(timeout=120, limits=limits) as client, ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, range(requests)))
    return {code: codes.count(code) for code in set(codes)}


def put_under_load(answers, requests):
    before = len(compiled)
    with served(answers, waiting=24, together=100) as (url, batcher):
        counts = load(url, requests)
        health = httpx2.get(f"{url}/health").json()
    print(f"{counts}, {batcher.batches} batches, {len(compiled) - before} programs more")
    assert compiled and len(compiled) == before
    assert counts.pop(503) > 0  # 32 at once, of which 24 may wait
    assert counts == {200: requests}
    assert health["waiting"] == 0 and health["answered"] == requests > batcher.batches


def test_under_load_all_are_answered_and_nothing_is_compiled(answers):
    put_under_load(answers, 200)


@linux
@pytest.mark.soak
def test_nothing_grows_under_a_long_load(answers):
    put_under_load(answers, 500)
    before = resident()
    put_under_load(answers, 3_000)
    print(f"{(resident() - before) / 2**20:+.1f} MB")
    assert resident() - before < GROWTH


def test_a_body_that_is_too_large_is_refused_over_a_socket(answers):
    with served(answers, body=1_000) as (url, _):
        answer = httpx2.post(f"{url}/search", content=b"x" * 5_000_000, headers=JSON)
        assert answer.status_code == 413


def by_hand(url, sent):
    """A connection that has sent this."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(sent.encode())
    return connection


def post_by_hand(url, body):
    """A connection whose body is to be of 100 bytes, of which it has sent these."""
    head = "POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return by_hand(url, f"{head}Content-Length: 100\r\n\r\n{body}")


def test_who_goes_away_or_never_ends_disturbs_nobody(answers, caplog):
    with served(answers) as (url, _):
        post_by_hand(url, '{"query"').close()
        with post_by_hand(url, '{"query"'):
            assert httpx2.get(f"{url}/search?q=cat", timeout=60).status_code == 200
    with served(answers, timeout=0.5) as (url, _):
        with post_by_hand(url, '{"query"') as slow:
            assert slow.recv(1_000).startswith(b"HTTP/1.1 408 ")
        assert httpx2.get(f"{url}/health", timeout=60).status_code == 200
    assert caplog.text == ""


def test_a_request_has_one_time_for_its_body_and_its_answer(answers):
    body = '{"query": "cat"}'.ljust(100)
    with (
        served(answers, timeout=2.0) as (url, batcher),
        held(batcher),
        post_by_hand(url, body[:50]) as slow,
    ):
        time.sleep(1.8)
        sent = time.monotonic()
        slow.sendall(body[50:].encode())
        assert slow.recv(12) in (b"HTTP/1.1 503", b"HTTP/1.1 408")
        assert time.monotonic() - sent < 2.0


def test_bodies_that_do_not_end_take_no_more_than_their_places(answers):
    def search():
        return httpx2.post(f"{url}/search", json={"query": "cat"})

    with served(answers, waiting=1) as (url, _):
        slow = [post_by_hand(url, '{"query"') for _ in range(4)]
        until(lambda: search().status_code == 503)
        answer = search()
        assert answer.json() == {"error": "4 requests are already being sent; try again"}
        assert answer.headers["retry-after"] == "1"
        assert httpx2.get(f"{url}/search?q=cat").status_code == 200
        for connection in slow:
            connection.close()
        until(lambda: search().status_code == 200)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_has_gone_away_is_not_run_and_takes_no_place(answers, caplog, method):
    with served(answers) as (url, batcher):
        with held(batcher):
            if method == "GET":
                client = by_hand(url, "GET /search?q=cat HTTP/1.1\r\nHost: localhost\r\n\r\n")
            else:
                client = post_by_hand(url, '{"query": "cat"}'.ljust(100))
            until(lambda: len(batcher) == 1)
            client.close()
            until(lambda: len(batcher) == 0)
        assert httpx2.get(f"{url}/health").json()["answered"] == 0
        assert batcher.batches == 1  # what held it
    assert caplog.text == ""


# ---- in a browser


@contextmanager
def browsed(answers):
    """A page of headless Chromium on a server, and what its console said."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright comes with the extra `browser`"
    )
    if CHROMIUM is None:
        pytest.skip("Chromium is not on this machine's PATH")
    flags = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update"]
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    with (
        served(answers) as (url, _),
        playwright.sync_playwright() as started,
        started.chromium.launch(executable_path=CHROMIUM, args=flags) as browser,
    ):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(url)
        yield page, said


@pytest.fixture
def page(answers):
    with browsed(answers) as opened:
        yield opened


def test_a_browser_shows_what_was_not_re_ranked(answers):
    hurried = dataclasses.replace(answers, budget_ms=0.001)
    ((found,), _) = hurried.search([["cat"]])[0]
    count = sum(ranked.reranker_rank is not None for ranked in found)
    with browsed(hurried) as (page, said):
        page.get_by_label("passages").fill(str(DEPTH))
        page.get_by_label("query").fill("cat")
        page.keyboard.press("Enter")
        page.get_by_text(f": {count} of {DEPTH} re-ranked in the 0.001 ms allowed").wait_for()
        items = page.locator("#reranker li")
        assert items.locator(".id").all_inner_texts() == [r.passage.id for r in found]
        assert items.locator(".rank").all_inner_texts() == [str(i + 1) for i in range(DEPTH)]
        assert items.locator(".score").all_inner_texts()[count:] == ["none"] * (DEPTH - count)
        moves = [*items.locator(".move").all_inner_texts()]
        assert [move == "not re-ranked" for move in moves] == [i >= count for i in range(DEPTH)]
    assert said == []


def test_a_browser_shows_both_rankings_and_hostile_text_as_text(page, answers):
    page, said = page
    query = f"{HOSTILE[0][1]} {HOSTILE[1][0]}"
    page.get_by_text(f"runs/tiny, {DEPTH + 8} passages").wait_for()
    page.get_by_label("query").fill(query)
    page.get_by_label("passages").fill(str(DEPTH))
    page.get_by_role("button", name="Search").click()
    page.get_by_text("Results for").wait_for()
    assert page.locator("#status").inner_text() == f"Results for “{query}”"
    found, stages = answers.search([[query]])[0]
    for kind in ("retriever", "reranker"):
        ranked = sorted(found[0], key=lambda ranks: getattr(ranks, f"{kind}_rank"))
        items = page.locator(f"#{kind} li")
        assert items.count() == DEPTH
        assert items.locator(".rank").all_inner_texts() == [str(i + 1) for i in range(DEPTH)]
        assert items.locator(".id").all_inner_texts() == [r.passage.id for r in ranked]
        texts = [text.strip() for text in items.locator(".text").all_text_contents()]
        assert texts == [r.passage.text for r in ranked]
        scores = [float(text) for text in items.locator(".score").all_inner_texts()]
        np.testing.assert_allclose(scores, [getattr(r, f"{kind}_score") for r in ranked], atol=1e-3)
        for move, ranks in zip(items.locator(".move").all_inner_texts(), ranked, strict=True):
            by = ranks.retriever_rank - ranks.reranker_rank
            assert move[:1] == ("=" if by == 0 else "▲" if by > 0 else "▼")
            assert by == 0 or move.split()[1] == str(abs(by))
    for title, text in HOSTILE:
        for column in page.locator("ol").all():
            assert column.get_by_text(title, exact=True).count() == 1
            assert column.get_by_text(text, exact=True).count() == 1
    assert page.locator("li img, li script, li b, #status img").count() == 0
    assert page.locator("script").count() == 1 and page.title().startswith(query[:20])
    labels = page.locator("#latency dt").all_inner_texts()
    assert labels == ["queue", "encode", "search", "re-rank", "total"]
    assert len(stages) + 2 == len(labels)  # queue and total are the server's
    times = page.locator("#latency dd").all_inner_texts()
    assert len(times) == len(labels)
    assert all(float(time.split()[0]) >= 0 and time.split()[1] in ("ms", "s") for time in times)
    page.reload()  # the address holds the query
    page.locator("#reranker li").first.wait_for()
    assert said == []


def test_on_a_phone_nothing_is_cut_off_and_an_error_is_shown(page):
    page, said = page
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_label("query").fill("cat " + "x" * 300)
    page.keyboard.press("Enter")
    page.locator("#reranker li").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("button", name="to the re-ranker").click()
    assert abs(page.locator("#second").bounding_box()["y"]) < 500  # else it is far below
    page.get_by_label("query").fill("   ")
    page.keyboard.press("Enter")
    page.get_by_text("query: expected non-empty text").wait_for()
    assert page.locator("#rankings").is_hidden() and page.title() == "rocketjax"
    assert all("422" in line for line in said)  # which the browser notes


CONTRAST = """(name) => {
  const luminance = (element, property) => {
    const [r, g, b] = getComputedStyle(element)[property].match(/\\d+/g)
      .map((value) => value / 255)
      .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const input = document.getElementById(name), edge = luminance(input, "borderTopColor");
  return [input, document.body].map((element) => luminance(element, "backgroundColor"))
    .map((other) => (Math.max(edge, other) + 0.05) / (Math.min(edge, other) + 0.05));
}"""


def test_the_keyboard_and_a_screen_reader_find_what_the_mouse_finds(page):
    page, said = page
    page.set_viewport_size({"width": 390, "height": 844})
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert min(page.evaluate(CONTRAST, "query") + page.evaluate(CONTRAST, "top")) >= 3
    page.get_by_label("passages").fill(str(DEPTH))
    page.get_by_label("query").fill("cat")
    page.keyboard.press("Enter")
    page.locator("#reranker li").first.wait_for()
    assert page.get_by_role("heading", level=2).all_inner_texts() == ["Retriever", "Re-ranker"]

    jump = page.get_by_role("button", name="to the re-ranker")
    jump.press("Enter")
    assert page.evaluate("document.activeElement.id") == "second"
    page.locator("#reranker li").last.focus()
    page.get_by_role("button", name="to the retriever").press("Enter")
    assert page.evaluate("document.activeElement.id") == "first"
    assert 0 < page.locator("#retriever li").first.bounding_box()["y"] < 100  # not the list's end

    page.locator("#retriever li").first.focus()
    marked = [item.get_attribute("data-id") for item in page.locator("li.same").all()]
    assert len(marked) == 2 and len(set(marked)) == 1  # in both lists
    page.get_by_label("query").focus()
    assert page.locator("li.same").count() == 0

    item = page.locator("li", has=page.locator(".more")).first
    more, name = item.locator(".more"), item.get_attribute("data-id")
    assert more.get_attribute("aria-expanded") == "false"
    assert more.get_attribute("aria-label") == f"more of {name}"
    more.press("Enter")
    assert more.get_attribute("aria-expanded") == "true"
    assert more.get_attribute("aria-label") == f"less of {name}" and more.inner_text() == "less"
    assert said == []
