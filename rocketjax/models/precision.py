"""How exactly matrix products are computed."""

from typing import Any, Literal

import jax.numpy as jnp


def precision(dtype: Any) -> Literal["highest"] | None:
    """The precision for products in `dtype`.

    By default, accelerators multiply float32 as bfloat16 or TF32.
    """
    return "highest" if dtype == jnp.float32 else None
