"""Facts on rocketjax alone: speed by length, a step's memory and feed, traffic, compilations."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

from rocketjax.bench import collectives, compiles
from rocketjax.bench.measure import Fact, in_turn, seconds
from rocketjax.bench.work import Ours, forward_flops, make_joint
from rocketjax.config.schema import (
    ComputeConfig,
    Config,
    DataConfig,
    RerankerConfig,
    RetrieverConfig,
)
from rocketjax.text.batch import Text
from rocketjax.training.loader import list_batches

MATRIX = 2_048  # rows and columns of the matrix product that utilisation is relative to
WARM_UP_STEPS = 3  # before the clock starts: the loader has made some batches while others ran
TIMED_STEPS = 5
LENGTHS = (8, 32, 128)  # passages in a list
CHUNK = 4  # texts; half of what the shortest lists have, so that all run in chunks


def measure(
    ours: Ours, collection: str, split: str, compute: ComputeConfig, rounds: int
) -> Iterator[Fact]:
    """All facts, one after the other."""
    weights = ours.work.weights
    yield from token_facts(ours, rounds)
    yield from feed_facts(ours, rounds)
    few = dataclasses.replace(ours.work, lists=ours.work.lists[: jax.device_count()])
    yield from memory_facts(Ours(few, compute), CHUNK, rounds)
    yield from collectives.measure(Path(weights))
    yield from compiles.measure(
        Config(
            data=DataConfig(collection, eval_split=split),
            retriever=RetrieverConfig(weights),
            reranker=RerankerConfig(weights),
            compute=compute,
        )
    )


def token_facts(ours: Ours, rounds: int) -> Iterator[Fact]:
    """How fast tokenised texts are encoded: short ones, long ones, and lengths mixed.

    They are real passages, cut to a length or repeated up to it.
    """
    longest = ours.work.passage_length
    short = max(8, longest // 4)
    texts = ours.retriever.tokenizer.passage([""] * len(ours.work.passages), ours.work.passages)
    shorts = [_resized(text, short) for text in texts for _ in range(longest // short)]
    longs = [_resized(text, longest) for text in texts]

    def encode(batch: Sequence[Text]) -> None:
        ours.retriever.encode_passage_tokens(batch, steady=False)

    short_seconds, long_seconds = in_turn([lambda: encode(shorts), lambda: encode(longs)], rounds)
    rates = short * len(shorts) / short_seconds, longest * len(longs) / long_seconds
    yield Fact(f"encoding texts of {short} tokens", rates[0], "tokens a second", "")
    yield Fact(f"encoding texts of {longest} tokens", rates[1], "tokens a second", "")
    yield Fact(f"{short} tokens beside {longest}", rates[0] / rates[1], "times", "at least 0.9")

    flops = len(longs) * forward_flops(ours.retriever.module.config, longest) / long_seconds
    share = flops / _matrix_flops(rounds)
    yield Fact("encoding, FLOP/s", flops / 1e9, "10^9", "")
    yield Fact("utilisation while encoding", share, "of a matrix product's", "")

    # Padding is as much work as text is, so full texts stand for padded ones.
    lengths = np.random.default_rng(0).integers(1, longest, len(texts), endpoint=True)
    mixed = [_resized(text, int(length)) for text, length in zip(texts, lengths, strict=True)]
    mixed_seconds, padded_seconds = in_turn([lambda: encode(mixed), lambda: encode(longs)], rounds)
    name = f"texts of {lengths.mean():.0f} tokens on average, beside padded to {longest}"
    yield Fact(name, padded_seconds / mixed_seconds, "times", "at least 1.6")


def _resized(text: Text, length: int) -> Text:
    return Text(np.resize(text.ids, length), np.resize(text.types, length))


def _matrix_flops(rounds: int) -> float:
    """FLOP/s of a large matrix product in the type that the models compute in."""
    on_cpu = jax.default_backend() == "cpu"
    ones = jnp.ones((MATRIX, MATRIX), jnp.float32 if on_cpu else jnp.bfloat16)
    (product_seconds,) = in_turn([lambda: jnp.dot(ones, ones).block_until_ready()], rounds)
    return 2 * MATRIX**3 / product_seconds


def feed_facts(ours: Ours, rounds: int) -> Iterator[Fact]:
    """Steps on one batch that is ready, beside steps that the loader feeds, in turn."""
    joint = make_joint(ours)
    ready = joint.collate(joint.lists)
    batches = list_batches(joint.lists, joint.collate, len(joint.lists), seed=1)
    state = joint.state

    def run(steps: int, fed: bool) -> None:
        nonlocal state
        for _ in range(steps):
            state, metrics = joint.program(state, next(batches) if fed else ready)
            jax.block_until_ready(metrics)

    def timed(fed: bool) -> float:
        run(WARM_UP_STEPS, fed)
        return seconds(lambda: run(TIMED_STEPS, fed))

    computing, feeding = zip(*[(timed(False), timed(True)) for _ in range(rounds)], strict=True)
    share = median(computing) / median(feeding)
    yield Fact("share of a step in which devices compute", share, "", "at least 0.9")


def memory_facts(
    ours: Ours, chunk: int, rounds: int, lengths: Sequence[int] = LENGTHS
) -> Iterator[Fact]:
    """Peak temporary memory as compiled, and time per passage, each beside the shortest lists'.

    Every list repeats the same passages, so that a passage costs the same in all of them.
    """
    shortest: tuple[float, float] | None = None
    for length in lengths:
        memory, step_seconds = _cost(ours, length, chunk, rounds)
        per_passage = step_seconds / (length * len(ours.work.lists))
        yield Fact(f"memory, lists of {length}", memory / 1e6, f"MB, chunk {chunk}", "")
        yield Fact(f"time, lists of {length}", 1e3 * per_passage, "ms a passage", "")
        if shortest is None:
            shortest = memory, per_passage
            continue
        name = f"lists of {length} beside {lengths[0]}"
        yield Fact(f"memory, {name}", memory / shortest[0], "times", "at most 1.05")
        yield Fact(f"time, {name}", per_passage / shortest[1], "times", "at most 1.1")


def _cost(ours: Ours, length: int, chunk: int, rounds: int) -> tuple[float, float]:
    """Bytes and seconds of a step on lists of `length` passages."""
    joint = make_joint(ours, length, chunk)
    batch = joint.collate(joint.lists)
    program = joint.program.lower(joint.state, batch).compile()
    state = joint.state

    def run() -> None:
        nonlocal state
        state, metrics = program(state, batch)
        jax.block_until_ready(metrics)

    (step_seconds,) = in_turn([run], rounds)
    return program.memory_analysis().temp_size_in_bytes, step_seconds
