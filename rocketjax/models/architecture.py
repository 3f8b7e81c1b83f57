"""What an encoder is: a family of models is a set of values here, not a class of its own.

BERT, MiniLM, ERNIE 2.0, RoBERTa and XLM-R are the defaults; models/families.py has the others'.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp

from rocketjax.models.attention.attend import Attention

Dtype: TypeAlias = Any
RematPolicy: TypeAlias = Literal["none", "full", "dots"]
Activation: TypeAlias = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"]
# The dense layers of each Transformer layer, in the order in which a token passes them.
DENSE = ("qkv", "attention_out", "mlp_in", "mlp_out")


@dataclass(frozen=True)
class Head:
    """What a cross-encoder computes between hidden states and the linear unit that scores."""

    pooling: Literal["cls", "mean"] = "cls"
    activation: Activation = "tanh"  # of W h + b
    bias: bool = True  # whether there is a b
    norm: bool = False  # LayerNorm after the activation, as in ModernBERT
    norm_bias: bool | None = None  # whether that has one; None: as the encoder's norms
    norm_eps: float | None = None  # its epsilon; None: theirs


@dataclass(frozen=True)
class Distances:
    """DeBERTa's scores of a query with a key's distance, and of a key with the query's.

    In attention/distances.py. A table has an embedding for each distance up to `reach`, which all
    layers share.
    """

    reach: int  # distances beyond have the embedding of the last
    buckets: int = 0  # embeddings on each side, of ever wider distances; 0: one for each distance
    terms: tuple[str, ...] = ("p2c", "c2p")  # keys with distances, and queries; or one of them
    shared: bool = True  # a distance is projected as content is; else by matrices of its own
    norm: bool = True  # LayerNorm of the table

    @property
    def side(self) -> int:
        """Embeddings on each side; the table has twice as many."""
        return self.buckets or self.reach


@dataclass(frozen=True)
class EncoderConfig:
    """A checkpoint's shape and arithmetic, as in transformers' config.json."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    type_vocab_size: int = 2  # ERNIE 2.0 has 4, RoBERTa 1, DistilBERT none: 0
    task_type_vocab_size: int = 0  # ERNIE's optional task-type embedding; 0: none
    position_offset: int = 0  # RoBERTa counts positions from pad_token_id + 1
    layer_norm_eps: float = 1e-12
    activation: Activation = "gelu"
    pad_token_id: int = 0
    family: str = "bert"  # the model_type that computes this in transformers
    embedding_size: int = 0  # of ELECTRA's tables, then projected to hidden_size; 0: hidden_size
    projected_first: bool = False  # without a bias, before what the tables give is normalised
    positions: bool = True  # a table of positions, unless they are rotary
    rope_theta: float = 0.0  # rotary positions instead of a table; 0: a table
    rope_factor: float = 1.0  # wavelengths are this much longer
    local_rope_theta: float = 0.0  # that of local layers; 0: the same
    relative_buckets: int = 0  # MPNet adds a learned number per head and distance to its scores
    distances: Distances | None = None  # DeBERTa
    window: int = 0  # in local layers, tokens up to window // 2 apart see each other; 0: none are
    global_every: int = 1  # every so many layers, from the first on, one is global
    prenorm: bool = False  # sublayers read normalised states and add to unnormalised ones
    gated: bool = False  # the perceptron is W (act(G x) * (U x)); mlp_in holds G and U ..
    gate_last: bool = False  # .. or U and G
    biases: tuple[str, ...] = DENSE  # those of them that have one; "distance" always has
    norm_bias: bool = True
    head: Head = Head()

    @property
    def max_length(self) -> int:
        """Tokens in the longest text that can be encoded."""
        return self.max_positions - self.position_offset

    @property
    def table_width(self) -> int:
        """The width of the embedding tables."""
        return self.embedding_size or self.hidden_size

    @property
    def position_rows(self) -> int:
        """Rows of the table of positions; 0: there is none."""
        return self.max_positions if self.positions and not self.rope_theta else 0

    @property
    def dense_shapes(self) -> dict[str, tuple[int, int]]:
        """Input and output width of each dense layer; distances pass the last, if it is there."""
        width, inner = self.hidden_size, self.intermediate_size
        shapes = {
            "qkv": (width, 3 * width),
            "attention_out": (width, width),
            "mlp_in": (width, 2 * inner if self.gated else inner),
            "mlp_out": (inner, width),
        }
        if self.distances and not self.distances.shared:
            shapes["distance"] = width, len(self.distances.terms) * width
        return shapes


@dataclass(frozen=True)
class Compute:
    """How an encoder runs; none of this changes what a checkpoint stores."""

    dtype: Dtype = jnp.float32  # of matrix products; parameters, norms and softmax stay float32
    attention: Attention = None  # see attention/attend.py; None: jax chooses
    remat: RematPolicy = "none"  # full: keep only each layer's input; dots: keep matrix products
    unroll: int = 1  # layers in one step of the scan
    dropout: float = 0.0  # of hidden states, in training; attention weights are not dropped
    scatter: bool = True  # adds up the gradients of small tables; otherwise a matrix product does
