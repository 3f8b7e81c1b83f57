"""The web app: the search page at /, and the JSON API at /search, /score and /health."""

import asyncio
import base64
import hashlib
import math
import re
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rocketjax.serving.answers import Answers, RankedPassage, ScoreItem, SearchWithin
from rocketjax.serving.batcher import Batcher, Done, Full
from rocketjax.serving.requests import Limits, Refused, read_score, read_search

Item = TypeVar("Item")
Result = TypeVar("Result")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
SENDING = 4  # bodies that may be read at once, as a multiple of the requests that may wait
PATHS = "/, /search, /score and /health"


def make_app(
    answers: Answers, batcher: Batcher, limits: Limits, model: str, hosts: Collection[str] = ()
) -> ASGIApp:
    """Makes the app.

    Args:
        answers: the models, warmed up.
        batcher: runs their methods.
        limits: a request beyond them is refused.
        model: the model's name in /health.
        hosts: the names, without a port, that the Host header may have; empty for any.
    """
    service = _Service(answers, batcher, limits, model)
    routes = [
        Route("/", service.page),
        Route("/health", service.health),
        Route("/search", service.search, methods=["GET", "POST"]),
        Route("/score", service.score, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        Refused: _refused,
        HTTPException: _no_route,
        ClientDisconnect: _client_left,
        Exception: _failed,
    }
    return _Guard(Starlette(routes=routes, exception_handlers=handlers), frozenset(hosts))


class _Service:
    def __init__(self, answers: Answers, batcher: Batcher, limits: Limits, model: str) -> None:
        self.answers, self.batcher, self.limits, self.model = answers, batcher, limits, model
        self.answered = self.queries = self.cut_short = 0
        self.reading = asyncio.Semaphore(SENDING * limits.waiting)

    async def page(self, request: Request) -> Response:
        del request
        return Response(PAGE, media_type="text/html")

    async def health(self, request: Request) -> Response:
        del request
        return JSONResponse(
            {
                "ready": True,
                "model": self.model,
                "passages": len(self.answers.corpus.index.vectors),
                "depth": self.answers.depth,
                "budget_ms": self.answers.budget_ms,
                "answered": self.answered,
                "queries": self.queries,
                "cut_short": self.cut_short,
                "batches": self.batcher.batches,
                "waiting": len(self.batcher),
            }
        )

    async def search(self, request: Request) -> Response:
        begin = time.perf_counter()
        is_post, parameters = request.method == "POST", request.query_params.multi_items()
        body = await self._body(request) if is_post else parameters
        answers = self.answers
        queries, top_k, budget_ms = read_search(body, self.limits, answers.depth, answers.budget_ms)
        work, size = SearchWithin(answers, budget_ms), len(queries) * answers.depth
        done = await self._run(request, begin, work, queries, size)
        rankings, stages = done.result
        results = [
            {"query": query, **_in_json(ranking, top_k)}
            for query, ranking in zip(queries, rankings, strict=True)
        ]
        self.queries += len(results)
        self.cut_short += sum(result["reranked"] < result["retrieved"] for result in results)
        return self._answer({"results": results, "budget_ms": budget_ms}, done, stages, begin)

    async def score(self, request: Request) -> Response:
        begin = time.perf_counter()
        body = read_score(await self._body(request), self.limits)
        texts, titles = [p.text for p in body.passages], [p.title for p in body.passages]
        item = ScoreItem(body.query, texts, titles)
        done = await self._run(request, begin, self.answers.score, item, len(texts))
        scores, stages = done.result
        order = sorted(range(len(scores)), key=lambda i: -scores[i])  # ties in the given order
        return self._answer({"scores": scores, "order": order}, done, stages, begin)

    async def _body(self, request: Request) -> bytes:
        """Reads the body of a POST.

        Its type has to be JSON: other sites' pages cannot send that without a preflight request.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, f"Content-Type: expected application/json, got {kind or 'none'}")
        if unread := next(iter(request.query_params), ""):
            raise Refused(422, f"{unread}: in the URL; a POST takes its fields from the body alone")
        if self.reading.locked():
            count = SENDING * self.limits.waiting
            raise Refused(503, f"{count} requests are already being sent; try again", 1)
        most, data = self.limits.body, bytearray()
        try:
            async with self.reading, asyncio.timeout(self.limits.timeout):
                async for chunk in request.stream():
                    data += chunk[: most + 1 - len(data)]  # the excess is read and dropped
        except TimeoutError as error:
            raise Refused(408, f"the body took more than {self.limits.timeout:g} s") from error
        if len(data) > most:
            raise Refused(413, f"the body: expected at most {most} bytes, got more")
        return bytes(data)

    async def _run(
        self,
        request: Request,
        begin: float,
        work: Callable[[list[Item]], list[Result]],
        item: Item,
        size: int,
    ) -> Done[Result]:
        """Has the batcher run `work`, until the request times out or its client disconnects."""
        limits = self.limits
        try:
            answer = asyncio.wrap_future(self.batcher.submit(work, item, size))
        except Full as error:
            raise Refused(
                503, f"{limits.waiting} requests are already waiting; try again", 1
            ) from error
        disconnect = asyncio.create_task(_disconnected(request))
        tasks = (answer, disconnect)
        left = begin + limits.timeout - time.perf_counter()
        try:
            await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnect.cancel()
            answer.cancel()  # has no effect on a finished one
        if answer.cancelled():
            if disconnect.done():
                raise ClientDisconnect
            retry = math.ceil(limits.timeout)
            raise Refused(503, f"no answer within {limits.timeout:g} s; try again", retry)
        done = answer.result()
        self.answered += 1
        return done

    def _answer(
        self, values: dict[str, Any], done: Done[Any], stages: dict[str, float], begin: float
    ) -> Response:
        times = {"queue": 1e3 * done.waited, **stages}
        times["total"] = 1e3 * (time.perf_counter() - begin)
        latency = {name: round(ms, 2) for name, ms in times.items()}
        return JSONResponse({**values, "latency_ms": latency, "together": done.together})


def _in_json(ranking: list[RankedPassage], top_k: int) -> dict[str, Any]:
    """How many passages there are, and those in the first `top_k` of either order."""
    return {
        "retrieved": len(ranking),
        "reranked": sum(ranked.reranker_rank is not None for ranked in ranking),
        "passages": [
            {
                **ranked.passage._asdict(),
                "retriever_score": ranked.retriever_score,
                "retriever_rank": ranked.retriever_rank,
                "reranker_score": ranked.reranker_score,
                "reranker_rank": ranked.reranker_rank,
                "move": ranked.move,
            }
            for ranked in ranking
            if min(ranked.retriever_rank, ranked.rank) <= top_k
        ],
    }


class _Guard:
    """Refuses requests with a foreign Host or from a foreign page, and adds the security headers.

    A foreign Host on the loopback means that another site's name was made to resolve to this
    machine (DNS rebinding). A foreign page can have a browser send requests, which would put the
    models to work although the page cannot read the response. Browsers mark these requests (Fetch
    Metadata), but only on the loopback and over TLS. Elsewhere the Origin header would not help,
    since a GET need not have one. Links from other sites are allowed.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        host = re.sub(r":\d*$", "", headers.get("host", "")).lower()
        app = self.app
        if self.hosts and host not in self.hosts:
            names = ", ".join(sorted(self.hosts))
            app = _error(400, f"Host: expected one of {names}, got {host[:100]!r}")
        elif (
            headers.get("sec-fetch-site") == "cross-site"
            and headers.get("sec-fetch-dest") != "document"
        ):
            app = _error(403, "Sec-Fetch-Site: requested by another site's page")
        await app(scope, receive, send_with_headers)


def _digests(tag: str) -> str:
    """The hashes of the page's own scripts or styles, the only ones its policy allows."""
    texts = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; script-src {_digests('script')}; "
    f"style-src {_digests('style')}; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


async def _refused(request: Request, error: Refused) -> Response:
    del request
    retry = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return _error(error.status, error.message, retry)


async def _no_route(request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    if error.status_code == 405:
        return _error(405, f"{request.url.path}: expected {headers['Allow']}", headers)
    return _error(error.status_code, f"{request.url.path[:100]}: not found; there are {PATHS}")


async def _disconnected(request: Request) -> None:
    """Returns when the client, whose request has been read, disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _client_left(request: Request, error: ClientDisconnect) -> Response:
    """A response that nobody will read."""
    del request, error
    return _error(400, "the client has disconnected")


async def _failed(request: Request, error: Exception) -> Response:
    """A response to an error, which Starlette raises again for the server to log."""
    del request
    return _error(500, f"{type(error).__name__}: {error}; see the server's log")
