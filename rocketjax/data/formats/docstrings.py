"""Docstrings as retrieval data: the summary sentence is a query, signature and body its passage.

formats/demo.py makes the demo collection of them. Any change here that changes a text changes the
demo's fingerprint, and with it every index of it.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

_SHORTEST_QUERY, _LONGEST_QUERY, _SHORTEST_BODY = 4, 30, 8  # words
# Sections that quote the summaries of other objects, or are citations.
_DROPPED_SECTIONS = {"see also", "references", "methods", "attributes"}
_NUMPY_UNDERLINE = re.compile(r"\s*([-=~^*])\1{2,}\s*")

_SECTION = re.compile(
    r"(args?|arguments|parameters|returns?|yields?|raises|examples?|example usage|usage|notes?"
    r"|see also|references?|attributes|methods|other parameters|warnings?|keyword arguments)::?",
    re.IGNORECASE,
)

_NOT_A_SUMMARY = re.compile(
    r"(convenience )?alias |initialize self|see |same as |like |equivalent to|refer to|todo"
    r"|jax implementation of|lax-backend|a jax scalar constructor|internal|private"
    r"|deprecated|.*\b(is|are|was|been) deprecated\b|.*\bdo not use\b",
    re.IGNORECASE,
)

_DEPRECATED = re.compile(
    r"^\.\. deprecated::|\b(method|function|class|attribute) is deprecated", re.MULTILINE
)

_WORD = re.compile(r"(?<![\w./:\\{])[A-Za-z]{2,}(?![\w(]|[./:]\w)")  # no code, no URLs

_BOILERPLATE = re.compile(
    r"(LAX-backend|JAX) implementation of [\w.]+( (log)?(pmf|pdf|cdf|sf|isf|ppf)\b)?[.,]?"
    r"|As an instance of the rv_\w+ class, .*? for this particular distribution\."
    r"|(Please )?[Rr]efer to \S+ for (the )?full documentation\.?"
    r"|(Array API Standard Support|\w+ has experimental support for Python Array API)"
    r" .*? dev-arrayapi for more information\."
    r"|Alias on this platform \([^)]*\): \S+"
    r"|[=+-]{4,}"
)

_CALL = re.compile(r"^(?:[\w, ]+ ?= ?)?(?:[\w.]+\.)?(\w+) ?\(")

_SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\ba\.k\.a)(?<!\bvs)(?<!\bcf)(?<!\bal)(?<!\betc)(?<!\b[A-Z])"
    r"[.!?](?=\s|$)"
)


class Docstring(NamedTuple):
    """The parts of a docstring that make a query and a passage."""

    name: str
    query: str
    signature: str
    body: str


def read_docstring(name: str, value: object) -> Docstring | None:
    """Splits the docstring of `value`; None if it does not yield a usable query and passage."""
    text = getattr(value, "__doc__", None)
    if not isinstance(text, str) or (
        not inspect.isclass(value) and text == getattr(type(value), "__doc__", None)
    ):
        return None
    short_name = name.rpartition(".")[2]
    written_signature, text = _leading_signature(inspect.cleandoc(text), short_name)
    summary, rest = _summary(text)
    if not _is_query(summary) or _DEPRECATED.search(text):
        return None
    body = _prose(rest)
    while summary.casefold() in body.casefold():
        body = _fold(re.sub(re.escape(summary), " ", body, flags=re.IGNORECASE))
    if len(_WORD.findall(body)) < _SHORTEST_BODY:
        return None
    signature = _signature(short_name, value) or written_signature
    return Docstring(name, summary, signature, body)


def _leading_signature(text: str, name: str) -> tuple[str, str]:
    """Splits off lines such as "mean(a, axis=None) -> ndarray" before the summary."""
    signatures: list[str] = []
    lines = text.split("\n")
    while lines and (not lines[0].strip() or name in _CALL.findall(lines[0])):
        signatures.append(lines.pop(0))
        while signatures[-1].count("(") > signatures[-1].count(")") and lines:
            signatures[-1] += " " + lines.pop(0).strip()
    return _fold(" ".join(signatures)), "\n".join(lines)


def _summary(text: str) -> tuple[str, str]:
    """The first sentence as plain text, and everything after it, with its markup."""
    paragraph, _, rest = text.partition("\n\n")
    lines = paragraph.split("\n")
    for number, line in enumerate(lines[1:], 1):
        is_underline = _NUMPY_UNDERLINE.fullmatch(line)
        if is_underline or _SECTION.fullmatch(line.strip()):
            header = number - 1 if is_underline else number
            rest = "\n".join(lines[header:]) + "\n\n" + rest
            lines = lines[:header]
            break
    paragraph = _plain("\n".join(lines))
    end = _SENTENCE_END.search(paragraph)
    if end is None:
        return paragraph.rstrip("."), rest
    return paragraph[: end.start()], f"{paragraph[end.end() :]}\n\n{rest}"


def _is_query(summary: str) -> bool:
    return (
        len(_WORD.findall(summary)) >= _SHORTEST_QUERY
        and len(summary.split()) <= _LONGEST_QUERY
        and not summary.endswith((":", ","))
        and summary.count("(") == summary.count(")")
        and not re.match(r"\W|[\w.]+\(|\S+=", summary)
        and "->" not in summary
        and not _NOT_A_SUMMARY.match(summary)
    )


def _prose(text: str) -> str:
    return _plain("\n".join(_kept_lines(text)))


def _kept_lines(text: str) -> Iterator[str]:
    """Yields the lines outside section headers, doctests and dropped sections."""
    lines = text.split("\n")
    dropped = doctest = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        header = line.strip().rstrip(":").lower()
        if _NUMPY_UNDERLINE.fullmatch(line):
            continue
        if _NUMPY_UNDERLINE.fullmatch(following) or _SECTION.fullmatch(line.strip()):
            dropped = header in _DROPPED_SECTIONS
            continue
        doctest = line.lstrip().startswith(">>>") or (doctest and bool(line.strip()))
        if not dropped and not doctest:
            yield line


def _plain(text: str) -> str:
    """The text without reST markup, memory addresses, boilerplate and line breaks."""
    text = re.sub(r"(?m)^\s*\.\. (version\w+|_\S+:|index|plot|\[\w+\]).*$", "", text)
    text = re.sub(r"\.\. [\w-]+::", " ", text)
    text = re.sub(r":[a-zA-Z:-]+:`~?([^`<]*?)(\s*<[^`]*>)?`", r"\1", text)  # :role:`text <target>`
    text = re.sub(r"`([^`<]+?)(\s*<[^`]*>)?`__?(?!\w)", r"\1", text)  # `text <address>`_
    text = re.sub(r"\[\w+\]_", "", text)
    text = re.sub(r"`(\w+)'", r"\1", text)
    text = re.sub(r"`+|(?<![\w)])\*\*(?=[\w][^*\n]*\*\*(?!\w))|(?<=\w)\*\*(?!\w)", "", text)
    text = re.sub(r"(?<![\w*])\*(\w+)\*(?![\w*])", r"\1", text)
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", text)
    return _fold(_BOILERPLATE.sub(" ", _fold(text)))


def _fold(text: str) -> str:
    """The text on one line, with single spaces."""
    return " ".join(text.split())


def _signature(name: str, value: object) -> str:
    """A call's parameters and plain defaults, without annotations, which vary between Pythons."""
    if not callable(value):
        return ""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # a C function without one
        return ""
    parameters = [_plain_parameter(parameter) for parameter in signature.parameters.values()]
    return name + str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def _plain_parameter(parameter: inspect.Parameter) -> inspect.Parameter:
    default = parameter.default
    if default is not parameter.empty:
        default = _Verbatim(_default_text(default))
    return parameter.replace(annotation=parameter.empty, default=default)


def _default_text(value: object) -> str:
    """A default value as text that does not depend on the machine."""
    if isinstance(value, str) and PurePath(value).is_absolute():
        return "..."
    if type(value) is int and value == sys.maxsize:
        return "sys.maxsize"
    if type(value) in (int, float, bool, str, bytes, type(None)):
        return repr(value)
    return getattr(value, "__name__", "...")


class _Verbatim(str):
    """A string whose repr has no quotes."""

    __repr__ = str.__str__
