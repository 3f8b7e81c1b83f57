"""Floating-point operations of an encoder, from its shape alone."""

from rocketjax.models.encoder import EncoderConfig


def forward_flops(config: EncoderConfig, tokens: float) -> float:
    """Of one text of so many tokens, forward; two for each multiply-add.

    Only matrix products count: the projections' weights [4 D^2 + 2 D F a layer] meet every token,
    and attention's two products bring every token together with every other [2 S^2 D a layer].
    """
    d, f = config.hidden_size, config.intermediate_size
    weights = 4 * d * d + 2 * d * f
    return 2 * config.num_layers * (tokens * weights + 2 * tokens**2 * d)
