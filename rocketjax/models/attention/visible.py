"""Which slots of packed rows see each other."""

import jax
import jax.numpy as jnp


def visible(text: jax.Array, window: int | None = None) -> jax.Array:
    """[R, S] -> [R, S, S] bool: tokens of one text that are at most window // 2 apart.

    Slots without a token have the text -1 and see one another, so that no row of weights is empty.
    """
    seen = text[:, :, None] == text[:, None, :]
    if window is not None:
        place = jnp.arange(text.shape[1])
        seen &= jnp.abs(place[:, None] - place) <= window // 2
    return seen
