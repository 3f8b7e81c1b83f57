"""The page and the JSON API: /, /search, /score and /health."""

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

from rocketjax.serving.answers import Answers, Pairs, Ranks
from rocketjax.serving.batcher import Batcher, Done, Full
from rocketjax.serving.requests import Limits, Refused, read_score, read_search

Item = TypeVar("Item")


Result = TypeVar("Result")


LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


SENDING = 4  # times as many bodies may be read at once as requests may wait


PATHS = "/, /search, /score and /health"


def make_app(
    answers: Answers, batcher: Batcher, limits: Limits, model: str, hosts: Collection[str] = ()
) -> ASGIApp:
    """What a server serves.

    Args:
        answers: warmed up.
        batcher: runs them.
        limits: beyond which a request is refused.
        model: what /health calls the model.
        hosts: names that a request may call this server; () for any.
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
        ClientDisconnect: _gone,
        Exception: _failed,
    }
    return _Guard(Starlette(routes=routes, exception_handlers=handlers), frozenset(hosts))


class _Service:
    def __init__(self, answers: Answers, batcher: Batcher, limits: Limits, model: str) -> None:
        self.answers, self.batcher, self.limits, self.model = answers, batcher, limits, model
        self.answered = 0
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
                "answered": self.answered,
                "batches": self.batcher.batches,
                "waiting": len(self.batcher),
            }
        )

    async def search(self, request: Request) -> Response:
        begin = time.perf_counter()
        body = request.query_params if request.method != "POST" else await self._body(request)
        asked = read_search(body, self.limits, self.answers.depth)
        size = len(asked.queries) * self.answers.depth
        done = await self._run(request, begin, self.answers.search, asked.queries, size)
        found, stages = done.result
        results = [
            {"query": query, "passages": _in_json(ranks, asked.top_k)}
            for query, ranks in zip(asked.queries, found, strict=True)
        ]
        return self._answer({"results": results}, done, stages, begin)

    async def score(self, request: Request) -> Response:
        begin = time.perf_counter()
        asked = read_score(await self._body(request), self.limits)
        texts, titles = ([getattr(p, name) for p in asked.passages] for name in ("text", "title"))
        pairs = Pairs(asked.query, texts, titles)
        done = await self._run(request, begin, self.answers.score, pairs, len(texts))
        scores, stages = done.result
        order = sorted(range(len(scores)), key=lambda i: -scores[i])  # ties as given
        return self._answer({"scores": scores, "order": order}, done, stages, begin)

    async def _body(self, request: Request) -> bytes:
        """Of a POST. Its type must be JSON's, which no other site's page may send unasked."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, f"Content-Type: expected application/json, got {kind or 'none'}")
        if self.reading.locked():
            many = SENDING * self.limits.waiting
            raise Refused(503, f"{many} requests are being sent already; try again", 1)
        most, data = self.limits.body, bytearray()
        try:
            async with self.reading, asyncio.timeout(self.limits.timeout):
                async for chunk in request.stream():
                    data += chunk[: most + 1 - len(data)]  # what is beyond is read and dropped
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
        """Gives up once the request's time is over, or its client has gone away."""
        limits = self.limits
        try:
            answer = asyncio.wrap_future(self.batcher.submit(work, item, size))
        except Full as error:
            raise Refused(503, f"{limits.waiting} requests wait already; try again", 1) from error
        gone = asyncio.create_task(_disconnected(request))
        left = begin + limits.timeout - time.perf_counter()
        try:
            await asyncio.wait((answer, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            answer.cancel()  # one that is there stays
        if answer.cancelled():
            if gone.done():
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


def _in_json(found: list[Ranks], top_k: int) -> list[dict[str, Any]]:
    """The passages that either model has among its first `top_k`, in the re-ranker's order."""
    return [
        {
            **ranks.passage._asdict(),
            "retriever_score": ranks.retriever_score,
            "retriever_rank": ranks.retriever_rank,
            "reranker_score": ranks.reranker_score,
            "reranker_rank": ranks.reranker_rank,
            "move": ranks.retriever_rank - ranks.reranker_rank,
        }
        for ranks in found
        if min(ranks.retriever_rank, ranks.reranker_rank) <= top_k
    ]


class _Guard:
    """Refuses requests by a foreign name or from a foreign page, and sends every answer's headers.

    A foreign name on the loopback is a page elsewhere whose name was made to lead here (DNS
    rebinding). A foreign page may make a browser ask, which would put the models to work though no
    header lets it read the answer; browsers say so (Fetch Metadata), on the loopback and over TLS
    alone. Origin would not help elsewhere: who needs no answer can GET without it. Links may lead
    here.
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
            app = _error(403, "Sec-Fetch-Site: asked by another site's page")
        await app(scope, receive, send_with_headers)


def _digests(tag: str) -> str:
    """The page's own scripts or styles, as its policy names them: nothing else is run."""
    inside = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    digests = (hashlib.sha256(text.encode()).digest() for text in inside)
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
    return _error(error.status_code, f"{request.url.path[:100]}: not here; there are {PATHS}")


async def _disconnected(request: Request) -> None:
    """Ends when the client, whose request has been read, goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    """Nobody is there to read it."""
    del request, error
    return _error(400, "the client has gone away")


async def _failed(request: Request, error: Exception) -> Response:
    """Starlette raises the error again, and the server logs it."""
    del request
    return _error(500, f"{type(error).__name__}: {error}; see the server's log")
