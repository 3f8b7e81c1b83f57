"""Options by name, with the texts that help shows."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path


def words(text):
    """Letters and digits only: help is wrapped and framed."""
    return re.sub(r"[^a-z0-9]+", "", re.sub(r"\x1b\[[0-9;]*m", "", text).lower())


def leaves(cls, prefix=""):
    """(class that declares it, field, option) of every option."""
    for item in dataclasses.fields(cls):
        if item.default_factory is dataclasses.MISSING:
            owner = next(c for c in cls.__mro__ if item.name in inspect.get_annotations(c))
            yield owner, item.name, prefix + item.name
        else:
            yield from leaves(type(item.default_factory()), f"{prefix}{item.name}.")


def docstrings(source):
    """(class, field) -> the string that stands below the field in a module's source."""
    found = {}
    for node in ast.parse(Path(source.__file__).read_text()).body:
        if isinstance(node, ast.ClassDef):
            for item, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(item, ast.AnnAssign) and isinstance(after, ast.Expr):
                    found[node.name, item.target.id] = ast.literal_eval(after.value)
    return found


def help_of_type(cls, field):
    """What the type of a field says of it, for options that several commands share."""
    annotation = inspect.get_annotations(cls)[field]
    return next((m.help for m in getattr(annotation, "__metadata__", ()) if hasattr(m, "help")), "")
