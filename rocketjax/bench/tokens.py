"""Tokens a second of encoding: short texts beside long ones, mixed ones beside padded ones."""

from collections.abc import Iterator, Sequence

import numpy as np

from rocketjax.bench.fact import Fact, in_turn
from rocketjax.bench.ours import Ours
from rocketjax.data.tokenize import Text


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

    # Padding is as much work as text is, so full texts stand for padded ones.
    lengths = np.random.default_rng(0).integers(1, longest, len(texts), endpoint=True)
    mixed = [_of(text, int(length)) for text, length in zip(texts, lengths, strict=True)]
    mixed_taken, padded_taken = in_turn([lambda: encode(mixed), lambda: encode(longs)], rounds)
    name = f"texts of {lengths.mean():.0f} tokens on average, beside padded to {longest}"
    yield Fact(name, padded_taken / mixed_taken, "times", "at least 1.6")


def _of(text: Text, length: int) -> Text:
    """Of exactly `length` tokens."""
    return Text(np.resize(text.ids, length), np.resize(text.types, length))
