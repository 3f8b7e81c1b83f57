"""What is asked of the server: read, and refused where it is not what it should be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar

import pydantic

from rocketjax.config.fields import Amount, Positive, Size

Body = TypeVar("Body")


@dataclass(frozen=True)
class Limits:
    """What a request may take; beyond it an error says which limit."""

    body: Size = 2**20
    """Bytes of a request."""
    queries: Size = 32
    """Queries of a request."""
    pairs: Size = 1_600
    """Pairs that a search re-ranks, its queries times --depth; one query is always answered."""
    passages: Size = 200
    """Passages of a request to score."""
    characters: Size = 20_000
    """Of a query, a title or a passage."""
    waiting: Size = 64
    """Requests that wait while others run; one more is told to come later (503), and so is one
    that comes while four times as many are still being sent."""
    timeout: Positive = 60.0
    """Seconds until a request is given up (503; 408 while its body is read)."""
    together: Size = 400
    """Pairs of a query and a passage that are run together; a larger request runs alone."""
    gather: Amount = 5.0
    """Milliseconds that a request waits for others to run together with."""


class Refused(Exception):
    """A request that is not answered: an HTTP status and one line that says why."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


_STRICT = pydantic.ConfigDict(extra="forbid")


# Of a body whose half a million items are all wrong, one error is enough.
_FIRST = pydantic.Field(fail_fast=True)


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class SearchBody:
    """POST /search: a query or several."""

    query: Annotated[
        list[str],
        _FIRST,
        pydantic.BeforeValidator(lambda x: [x] if isinstance(x, str) else x),
    ]
    top_k: int | None = None


@dataclass(frozen=True)  # a plain one: made of a text, it is not validated again
class PassageBody:
    """A passage to score; a plain text is one without a title."""

    __pydantic_config__ = _STRICT
    text: str
    title: str = ""


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class ScoreBody:
    """POST /score: a query, and passages to score with it."""

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
    """A search to run."""

    queries: list[str]
    top_k: int


def read_search(body: bytes | Mapping[str, str], limits: Limits, depth: int) -> Search:
    """A search, of a JSON body or of an address' parameters q and top_k.

    Raises:
        Refused: 400 no JSON; 422 a field is missing, unknown, of another type or beyond its limit.
    """
    asked = _read(_SEARCH, body if isinstance(body, bytes) else _named(body))
    most = min(limits.queries, max(1, limits.pairs // depth))  # one request runs to its end
    _check_count("query", asked.query, most, "queries")
    for place, query in enumerate(asked.query):
        _check_text("query" if len(asked.query) == 1 else f"query.{place}", query, limits)
    top_k = min(10, depth) if asked.top_k is None else asked.top_k
    if not 1 <= top_k <= depth:
        raise Refused(422, f"top_k: expected 1 to {depth} (--depth), got {top_k}")
    return Search(asked.query, top_k)


def read_score(body: bytes, limits: Limits) -> ScoreBody:
    """Pairs to score, of a JSON body. Raises what `read_search` raises."""
    asked = _read(_SCORE, body)
    _check_text("query", asked.query, limits)
    _check_count("passages", asked.passages, limits.passages, "passages")
    for place, passage in enumerate(asked.passages):
        titled = bool(passage.title.strip())  # a title alone is a passage
        _check_text(f"passages.{place}.text", passage.text, limits, empty=titled)
        _check_text(f"passages.{place}.title", passage.title, limits, empty=True)
    return asked


def _named(parameters: Mapping[str, str]) -> dict[str, Any]:
    """An address calls the query q."""
    return {"query" if name == "q" else name: value for name, value in parameters.items()}


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


def _check_text(field: str, text: str, limits: Limits, empty: bool = False) -> None:
    if len(text) > limits.characters:
        raise Refused(
            422, f"{field}: expected at most {limits.characters} characters, got {len(text)}"
        )
    if not empty and not text.strip():
        raise Refused(422, f"{field}: is empty; give it a text")
