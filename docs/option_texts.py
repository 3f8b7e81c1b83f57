"""Options by name, with the texts that help shows: for the site, and for the tests of help."""

import ast
import dataclasses
import inspect
import re
from functools import cache
from pathlib import Path


def words(text):
    """Letters and digits only: help is wrapped and framed."""
    return re.sub(r"[^a-z0-9]+", "", re.sub(r"\x1b\[[0-9;]*m", "", text).lower())


def leaves(cls, prefix=""):
    """(class that declares it, field, option) of every option, in order."""
    for item in dataclasses.fields(cls):
        if item.default_factory is dataclasses.MISSING:
            owner = next(c for c in cls.__mro__ if item.name in inspect.get_annotations(c))
            yield owner, item.name, prefix + item.name
        else:
            yield from leaves(type(item.default_factory()), f"{prefix}{item.name}.")


def text_of(cls, field):
    """What an option says of itself: the string below the field, or its type's help, or ""."""
    below = _docstrings(Path(inspect.getsourcefile(cls)))
    return below.get((cls.__name__, field)) or _help_of_type(cls, field)


@cache
def _docstrings(path):
    """(class, field) -> the string that stands below the field in a module's source."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            for item, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(item, ast.AnnAssign) and isinstance(after, ast.Expr):
                    found[node.name, item.target.id] = ast.literal_eval(after.value)
    return found


def _help_of_type(cls, field):
    """What the type of a field says of it, for options that several commands share."""
    annotation = inspect.get_annotations(cls)[field]
    return next((m.help for m in getattr(annotation, "__metadata__", ()) if hasattr(m, "help")), "")
