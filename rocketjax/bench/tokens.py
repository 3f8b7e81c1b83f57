"""Tokens a second of encoding: short texts beside long ones, mixed ones beside padded ones."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rocketjax.bench.fact import Fact, in_turn
from rocketjax.bench.flops import forward_flops
from rocketjax.bench.ours import Ours
from rocketjax.data.tokenize import Text

SIDE = 2_048  # of the square matrices that utilisation is measured by


def measure(ours: Ours, rounds: int) -> Iterator[Fact]:
    """Real passages, cut to a length or filled up with their own tokens."""
    longest = ours.work.passage_length
    short = max(8, longest // 4)
    texts = ours.retriever.tokenizer.passage([""] * len(ours.work.passages), ours.work.passages)

    def encode(some: Sequence[Text]) -> None:
        ours.retriever.encode_passage_tokens(some, steady=False)

    shorts = [_of(text, short) for text in texts for _ in range(longest // short)]
    longs = [_of(text, longest) for text in texts]
    short_taken, long_taken = in_turn([lambda: encode(shorts), lambda: encode(longs)], rounds)
    rates = short * len(shorts) / short_taken, longest * len(longs) / long_taken
    yield Fact(f"encoding texts of {short} tokens", rates[0], "tokens a second", "")
    yield Fact(f"encoding texts of {longest} tokens", rates[1], "tokens a second", "")
    yield Fact(f"{short} tokens beside {longest}", rates[0] / rates[1], "times", "at least 0.9")

    flops = len(longs) * forward_flops(ours.retriever.module.config, longest) / long_taken
    yield Fact("encoding, FLOP/s", flops / 1e9, "10^9", "")
    yield Fact("utilisation while encoding", flops / _product(rounds), "of a matrix product's", "")

    # Padding is as much work as text is, so full texts stand for padded ones.
    lengths = np.random.default_rng(0).integers(1, longest, len(texts), endpoint=True)
    mixed = [_of(text, int(length)) for text, length in zip(texts, lengths, strict=True)]
    mixed_taken, padded_taken = in_turn([lambda: encode(mixed), lambda: encode(longs)], rounds)
    name = f"texts of {lengths.mean():.0f} tokens on average, beside padded to {longest}"
    yield Fact(name, padded_taken / mixed_taken, "times", "at least 1.6")


def _of(text: Text, length: int) -> Text:
    """Of exactly `length` tokens."""
    return Text(np.resize(text.ids, length), np.resize(text.types, length))


def _product(rounds: int) -> float:
    """FLOP/s of a large matrix product in the type that the models compute in."""
    on_cpu = jax.default_backend() == "cpu"
    one = jnp.ones((SIDE, SIDE), jnp.float32 if on_cpu else jnp.bfloat16)
    (taken,) = in_turn([lambda: jnp.dot(one, one).block_until_ready()], rounds)
    return 2 * SIDE**3 / taken
