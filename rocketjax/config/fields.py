"""What an option is made of: its type, its default and the first stage of a run it matters to."""

import dataclasses
import os
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import pydantic
import tyro


def _number(value: object) -> object:
    """Else false would be 0, and an option that None turns off would be on by `off`."""
    if isinstance(value, bool):
        raise ValueError(
            "should be a number, not true or false, as which YAML reads on, off, yes and no; None "
            "is written null"
        )
    return value


_Int: TypeAlias = Annotated[int, pydantic.BeforeValidator(_number)]
_Float: TypeAlias = Annotated[float, pydantic.BeforeValidator(_number)]
Count: TypeAlias = Annotated[_Int, pydantic.Field(ge=0)]
Seed: TypeAlias = Annotated[_Int, pydantic.Field(ge=0, lt=2**32)]
Size: TypeAlias = Annotated[_Int, pydantic.Field(ge=1)]
Seconds: TypeAlias = Annotated[_Int, pydantic.Field(ge=10)]
Length: TypeAlias = Annotated[_Int, pydantic.AfterValidator(lambda value: _length(value))]
Amount: TypeAlias = Annotated[_Float, pydantic.Field(ge=0, allow_inf_nan=False)]
Finite: TypeAlias = Annotated[_Float, pydantic.Field(allow_inf_nan=False)]
Positive: TypeAlias = Annotated[_Float, pydantic.Field(gt=0, allow_inf_nan=False)]
Share: TypeAlias = Annotated[_Float, pydantic.Field(ge=0, lt=1)]
Whole: TypeAlias = Annotated[_Float, pydantic.Field(ge=0, le=1)]
# A file or folder by its name. No shell expands the ~ of --run-dir=~/x, of YAML or of Python.
PathName: TypeAlias = Annotated[str, pydantic.AfterValidator(os.path.expanduser)]

OnBadRows: TypeAlias = Annotated[
    Literal["fail", "skip"],
    tyro.conf.arg(help="Bad rows of the collection: fail at the first, or skip and count them."),
]
PoolingOption: TypeAlias = Annotated[
    Literal["auto", "cls", "mean"],
    tyro.conf.arg(
        help="The retriever's vector of a text: its first token's state, or the mean over its "
        "tokens; auto: as the model's folder says, cls where it does not."
    ),
]
NormalizeOption: TypeAlias = Annotated[
    bool | None,
    tyro.conf.arg(
        help="Scale the retriever's vectors to length 1, so that scores are cosines; None: as the "
        "model's folder says, unscaled where it does not."
    ),
]
TruncateOption: TypeAlias = Annotated[
    Count | None,
    tyro.conf.arg(
        help="Keep the first N numbers of the retriever's vectors (Matryoshka), 0: all; None: as "
        "the model's folder says."
    ),
]
Stage: TypeAlias = Literal[
    "start", "warm-retriever", "encode", "warm-reranker", "mine", "joint", "index", "evaluate"
]


def _length(value: int) -> int:
    if 0 < value < 8 or value < 0:  # room for special tokens and some text
        raise ValueError("should be 0, or at least 8")
    return value


# What a part of a training stage's options decides; `section` says which stage that is.
Role: TypeAlias = Literal["lists", "training"]
LISTS: Role = "lists"  # for how many queries lists are made
TRAINING: Role = "training"  # how a model is trained on them
NEVER = None  # the option changes nothing of what is trained


class Effect(NamedTuple):
    """What an option changes."""

    stage: Stage | None  # the first stage it matters to
    judged: bool  # whether the starting models are judged by it


def at(stage: Stage | Role | None, default: Any, judged: bool = False) -> Any:
    """An option: its default, the first stage it matters to, whether the start is judged by it."""
    return dataclasses.field(default=default, metadata={"stage": stage, "judged": judged})


def section(
    make: Callable[[], Any], lists: Stage | None = None, training: Stage | None = None
) -> Any:
    """A group of options; of a training stage, the stages that its roles stand for."""
    return dataclasses.field(default_factory=make, metadata={"lists": lists, "training": training})


def effects(cls: type, prefix: str = "", **roles: Stage | None) -> dict[str, Effect]:
    """Every option of `cls` by its dotted name, and what it changes.

    Raises:
        TypeError: a field that was made by neither `at` nor `section`.
    """
    result: dict[str, Effect] = {}
    for field in dataclasses.fields(cls):
        name, known = prefix + field.name, field.metadata
        if "judged" in known:
            stage = known["stage"]
            result[name] = Effect(roles.get(stage, stage), known["judged"])
        elif "lists" in known:
            own = {role: stage for role, stage in known.items() if stage is not None}
            result |= effects(type(field.default_factory()), f"{name}.", **(roles | own))  # pyright: ignore
        else:
            raise TypeError(f"option {name} does not say which stage it first matters to")
    return result
