"""Types of options, and the stages of a run."""

from typing import Annotated, Literal, TypeAlias

import pydantic

Count: TypeAlias = Annotated[int, pydantic.Field(ge=0)]


Seed: TypeAlias = Annotated[int, pydantic.Field(ge=0, lt=2**32)]


Size: TypeAlias = Annotated[int, pydantic.Field(ge=1)]


Length: TypeAlias = Annotated[int, pydantic.AfterValidator(lambda value: _length(value))]


Amount: TypeAlias = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]


Positive: TypeAlias = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]


Share: TypeAlias = Annotated[float, pydantic.Field(ge=0, lt=1)]


Whole: TypeAlias = Annotated[float, pydantic.Field(ge=0, le=1)]


Stage: TypeAlias = Literal[
    "start", "warm-retriever", "encode", "warm-reranker", "mine", "joint", "index", "evaluate"
]


def _length(value: int) -> int:
    if 0 < value < 8 or value < 0:  # room for special tokens and some text
        raise ValueError("should be 0, or at least 8")
    return value
