"""Parses and validates the requests of the JSON API."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar

import pydantic

from rocketjax.config.fields import Amount, Positive, Size

Body = TypeVar("Body")


@dataclass(frozen=True)
class Limits:
    """Limits on requests; the error of a request that exceeds one names it."""

    body: Size = 2**20
    """Maximum size of a request in bytes."""
    queries: Size = 32
    """Maximum queries per request."""
    pairs: Size = 1_600
    """Maximum query-passage pairs that a search re-ranks, its queries times --depth. A single query
    is always answered."""
    passages: Size = 200
    """Maximum passages per request to score."""
    characters: Size = 20_000
    """Maximum characters of a query, a title or a passage."""
    waiting: Size = 64
    """Maximum requests that wait while others run. Further ones get 503, as do those that arrive
    while four times as many are still being sent."""
    timeout: Positive = 60.0
    """Seconds after which a request is abandoned (503, or 408 while its body is being read)."""
    together: Size = 400
    """Maximum query-passage pairs that run in one batch; a larger request runs alone."""
    gather: Amount = 5.0
    """Milliseconds that a request waits for others to join its batch."""


class Refused(Exception):
    """A request is refused, with an HTTP status and one line that says why."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


_STRICT = pydantic.ConfigDict(extra="forbid")
# One error is enough, even if half a million items are wrong.
_FIRST = pydantic.Field(fail_fast=True)


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class SearchBody:
    """The body of POST /search: a query or several."""

    query: Annotated[
        list[str],
        _FIRST,
        pydantic.BeforeValidator(lambda x: [x] if isinstance(x, str) else x),
    ]
    top_k: int | None = None
    budget_ms: Positive | None = None


@dataclass(frozen=True)  # not pydantic's, which would validate one made of a string again
class PassageBody:
    """A passage to score; a plain string stands for one without a title."""

    __pydantic_config__ = _STRICT
    text: str
    title: str = ""


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class ScoreBody:
    """The body of POST /score: a query, and passages to score for it."""

    query: str
    passages: Annotated[
        list[
            Annotated[
                PassageBody,
                pydantic.BeforeValidator(lambda x: PassageBody(x) if isinstance(x, str) else x),
            ]
        ],
        _FIRST,
    ]


_SEARCH, _SCORE = pydantic.TypeAdapter(SearchBody), pydantic.TypeAdapter(ScoreBody)


class Search(NamedTuple):
    """A valid search request."""

    queries: list[str]
    top_k: int
    budget_ms: float | None  # None: no limit


def read_search(
    body: bytes | Sequence[tuple[str, str]],
    limits: Limits,
    depth: int,
    budget_ms: float | None = None,
) -> Search:
    """Reads a search from a JSON body, or from the URL's parameters q, top_k and budget_ms.

    Args:
        body: of a POST, or the parameters of a GET.
        limits: a request beyond them is refused.
        depth: the largest top_k.
        budget_ms: the server's, which a request can only lower; None: any.

    Raises:
        Refused: 400 for invalid JSON, 422 for a field that is missing, unknown, of the wrong type
            or beyond its limit, or a parameter that is there twice.
    """
    search = _read(_SEARCH, body if isinstance(body, bytes) else _long_names(body))
    # Limited by pairs too, since a request cannot be interrupted while it runs.
    most = min(limits.queries, max(1, limits.pairs // depth))
    _check_count("query", search.query, most, "queries")
    for i, query in enumerate(search.query):
        _check_text("query" if len(search.query) == 1 else f"query.{i}", query, limits)
    top_k = min(10, depth) if search.top_k is None else search.top_k
    if not 1 <= top_k <= depth:
        raise Refused(422, f"top_k: expected 1 to {depth} (--depth), got {top_k}")
    if search.budget_ms is None:
        return Search(search.query, top_k, budget_ms)
    if budget_ms is not None and search.budget_ms > budget_ms:
        raise Refused(
            422,
            f"budget_ms: expected at most {budget_ms:g} (--budget-ms), got {search.budget_ms:g}",
        )
    return Search(search.query, top_k, search.budget_ms)


def read_score(body: bytes, limits: Limits) -> ScoreBody:
    """Reads a query and passages to score from a JSON body. Raises Refused, as `read_search`."""
    score = _read(_SCORE, body)
    _check_text("query", score.query, limits)
    _check_count("passages", score.passages, limits.passages, "passages")
    for i, passage in enumerate(score.passages):
        has_title = bool(passage.title.strip())  # a title alone is a passage
        _check_text(f"passages.{i}.text", passage.text, limits, allow_empty=has_title)
        _check_text(f"passages.{i}.title", passage.title, limits, allow_empty=True)
    return score


def _long_names(parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A URL's parameters under the names of the JSON fields: q is short for query."""
    fields = {}
    for name, value in parameters:
        name = "query" if name == "q" else name
        if name in fields:
            raise Refused(422, f"{name}: given twice; POST /search takes a list of queries")
        fields[name] = value
    return fields


def _read(adapter: "pydantic.TypeAdapter[Body]", body: bytes | dict[str, Any]) -> Body:
    try:
        if isinstance(body, bytes):
            return adapter.validate_json(body, strict=True)
        return adapter.validate_python(body)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise Refused(400, f"the body: {first['msg']}") from error
        field = ".".join(map(str, first["loc"])) or "the body"
        raise Refused(422, f"{field}: {first['msg']}") from error


def _check_count(field: str, items: Sequence[object], most: int, what: str) -> None:
    if not 1 <= len(items) <= most:
        raise Refused(422, f"{field}: expected 1 to {most} {what}, got {len(items)}")


def _check_text(field: str, text: str, limits: Limits, allow_empty: bool = False) -> None:
    if len(text) > limits.characters:
        raise Refused(
            422, f"{field}: expected at most {limits.characters} characters, got {len(text)}"
        )
    if not allow_empty and not text.strip():
        raise Refused(422, f"{field}: expected non-empty text")
