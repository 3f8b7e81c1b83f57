"""What a recipe's files do not say: the shape of its weights, the size of its collection."""

import math
from pathlib import Path
from typing import Literal, NamedTuple

from rocketjax.bench.stages import KINDS, Kind
from rocketjax.config.options import RECIPES
from rocketjax.config.schema import MINILM, Config
from rocketjax.inference.reading import tower_folders
from rocketjax.models.architecture import EncoderConfig, Head
from rocketjax.models.names import leaves
from rocketjax.models.pretrained import read_encoder_config, resolve_weights

BERT_BASE = EncoderConfig(30_522, 768, 12, 12, 3_072, 512)
MINILM_L6 = EncoderConfig(30_522, 384, 6, 12, 1_536, 512)
MODERNBERT_BASE = EncoderConfig(
    50_368,
    768,
    22,
    12,
    1_152,
    8_192,
    type_vocab_size=0,
    layer_norm_eps=1e-5,
    pad_token_id=50_283,
    family="modernbert",
    rope_theta=160_000.0,
    local_rope_theta=10_000.0,
    window=128,
    global_every=3,
    prenorm=True,
    gated=True,
    biases=(),
    norm_bias=False,
    head=Head("mean", "gelu", bias=False, norm=True),
)
XLMR_BASE = EncoderConfig(
    250_002,
    768,
    12,
    12,
    3_072,
    514,
    type_vocab_size=1,
    position_offset=2,
    layer_norm_eps=1e-5,
    pad_token_id=1,
    family="roberta",
)
# Weights that recipes start from, known without a download.
_KNOWN = {
    "google-bert/bert-base-uncased": BERT_BASE,
    MINILM: MINILM_L6,
    "answerdotai/ModernBERT-base": MODERNBERT_BASE,
    "intfloat/multilingual-e5-base": XLMR_BASE,
}


class Sizes(NamedTuple):
    """A collection: how many texts there are, and how long they are in tokens on average."""

    passages: int
    queries: int  # to evaluate on
    query_tokens: float
    passage_tokens: float  # cut as the recipe says
    pair_tokens: float  # likewise


# docs/plan.md says how they were measured.
_MSMARCO = Sizes(8_841_823, 6_980, 9.0, 70.5, 79.1)
_SIZES = {
    "msmarco": _MSMARCO,
    "msmarco_modern": _MSMARCO,
    "msmarco_small": _MSMARCO._replace(passages=500_000),
    "nq": Sizes(21_015_324, 8_757, 11.7, 127.3, 147.6),
}


def encoder_of(weights: str) -> EncoderConfig:
    """The shape of the encoder that some weights hold.

    Raises:
        InputError: weights that are not known here and not found.
    """
    if weights in _KNOWN:
        return _KNOWN[weights]
    return read_encoder_config(tower_folders(resolve_weights(weights))[0])


def reader_of(config: Config, kind: Kind) -> EncoderConfig:
    """The shape of the encoder that reads texts of a kind: pairs are the re-ranker's."""
    return encoder_of((config.reranker if kind == "pair" else config.retriever).weights)


def limits(config: Config) -> dict[Kind, int]:
    """Tokens in the longest text of each kind."""
    text = config.text
    lengths = (text.query_length, text.passage_length, text.pair_length)
    return {
        kind: length or reader_of(config, kind).max_length
        for kind, length in zip(KINDS, lengths, strict=True)
    }


def pooling_of(config: Config) -> Literal["cls", "mean"]:
    """How a recipe's retriever makes a vector, where "auto" leaves it to the weights."""
    if config.retriever.pooling != "auto":
        return config.retriever.pooling
    return "mean" if encoder_of(config.retriever.weights) == MINILM_L6 else "cls"


def sizes_of(config: Config) -> Sizes:
    """The collection's sizes; of one that was not measured, all texts as long as they may be."""
    known = _SIZES.get(config.name)
    if known:
        return known
    return Sizes(20_000, 300, *map(float, limits(config).values()))


def parameters(encoder: EncoderConfig) -> int:
    """Parameters of an encoder without a pooler."""
    return sum(len(leaf.names) * math.prod(leaf.shape) for leaf in leaves(encoder))


def recipes() -> list[str]:
    """The names of all recipes, but for a GPU's and the ablation's arms, laid over its base."""
    names = (path.stem for path in RECIPES.glob("*.yaml"))
    return sorted(name for name in names if not name.startswith("ablation"))


def short(path: str) -> str:
    """The name of a recipe: configs/gpu/squad.yaml -> gpu/squad."""
    parts = Path(path).with_suffix("").parts
    return "/".join(parts[-2:] if parts[-2:-1] == ("gpu",) else parts[-1:])
