"""Every family of encoders against transformers, live, in small: one test for all of them each."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rocketjax.models import convert, heads, pretrained
from rocketjax.models.architecture import Compute, EncoderConfig
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import Encoder, unstacked
from rocketjax.models.layer import init_layers
from rocketjax.models.names import NAMES
from rocketjax.runtime.errors import InputError
from rocketjax.text.batch import Text, Tokens
from rocketjax.text.rows import pack

torch = pytest.importorskip("torch", reason="parity with transformers needs torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what transformers and torch say of each other
    transformers = pytest.importorskip("transformers", reason="the implementation to agree with")

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
DISTILBERT = {"dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 24, "vocab_size": 60}
SPECIAL = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
LOCAL = {"local_attention": 8, "num_hidden_layers": 5, "pad_token_id": 0, **SPECIAL}
# The class of a family in transformers, and the fields that its config has.
FAMILIES = {
    "bert": ("Bert", SIZES),
    "ernie": ("Ernie", SIZES | {"use_task_id": True}),
    "roberta": ("Roberta", SIZES),
    "camembert": ("Camembert", SIZES | {"type_vocab_size": 1}),
    "modernbert": ("ModernBert", SIZES | LOCAL),
    "modernbert-biases": (
        "ModernBert",
        SIZES
        | LOCAL
        | {
            "attention_bias": True,
            "mlp_bias": True,
            "norm_bias": True,
            "classifier_bias": True,
            "classifier_pooling": "mean",
            "classifier_activation": "silu",
            "hidden_activation": "gelu_new",
            "layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"],
        },
    ),
    "distilbert": ("DistilBert", DISTILBERT | {"max_position_embeddings": 64}),
    "electra-small": ("Electra", SIZES | {"embedding_size": 8}),
    "electra": ("Electra", SIZES | {"embedding_size": 16}),
    "mpnet": ("MPNet", SIZES),
    "nomic": ("NomicBert", SIZES),
    "gte": ("Gte", SIZES),
    "gte-untyped": ("Gte", SIZES | {"type_vocab_size": 0}),
}
LENGTHS = np.array([31, 18, 1], np.int32)
each_family = pytest.mark.parametrize("family", FAMILIES)


def model_of(family, folder, kind="Model", **changes):
    """A live model of transformers with random weights, saved in the folder."""
    name, fields = FAMILIES[family]
    if not hasattr(transformers, f"{name}Config"):
        pytest.skip(f"this transformers has no {name}")
    config = getattr(transformers, f"{name}Config")(**fields | changes)
    model = getattr(transformers, name + kind)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
            if key.lower().endswith(("norm.weight", "ln.weight")):
                parameter.add_(1.0)
    model.save_pretrained(folder)
    return model


def load(folder):
    config = pretrained.read_encoder_config(folder)
    tensors = pretrained.load_tensors(folder)
    return config, convert.encoder_params(tensors, config, str(folder)), tensors


def tokens_of(config, lengths=LENGTHS, seed=3):
    rng = np.random.default_rng(seed)
    inside = np.arange(max(lengths)) < lengths[:, None]
    ids = rng.integers(5, config.vocab_size, inside.shape, np.int32)
    types = rng.integers(0, max(1, config.type_vocab_size), inside.shape, np.int32)
    return Tokens(np.where(inside, ids, config.pad_token_id), types * inside, lengths)


def theirs_of(model, config, tokens):
    """What the live model computes of padded texts."""
    mask = np.arange(tokens.ids.shape[1]) < np.asarray(tokens.length)[:, None]
    batch = {"input_ids": tokens.ids, "attention_mask": mask}
    if config.type_vocab_size > 1:
        batch["token_type_ids"] = tokens.types
    return model(**{name: torch.from_numpy(x.astype(np.int64)) for name, x in batch.items()})


def own(tokens):
    return np.arange(tokens.ids.shape[1]) < np.asarray(tokens.length)[:, None]


def packed(tokens, width=40):
    """The texts in packed rows."""
    texts = [
        Text(ids[:n], types[:n])
        for ids, types, n in zip(tokens.ids, tokens.types, tokens.length, strict=True)
    ]
    return jax.tree.map(lambda x: x[0], pack([texts], width, 0, 0))


@each_family
def test_states_and_gradients_are_those_of_transformers(family, tmp_path):
    model = model_of(family, tmp_path)
    config, params, _ = load(tmp_path)
    tokens = tokens_of(config)
    weight = np.random.default_rng(5).standard_normal((*tokens.ids.shape, 16), np.float32)
    weight *= own(tokens)[:, :, None]
    hidden = theirs_of(model, config, tokens).last_hidden_state
    (hidden * torch.from_numpy(weight)).sum().backward()
    model.zero_grad if False else None

    def loss(params):
        states = Encoder(config).apply({"params": params}, tokens)
        return jnp.sum(states * weight), states

    gradient, states = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert np.abs(states - hidden.detach().numpy())[own(tokens)].max() <= 1e-4
    # Their gradients, under the names that their files have.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)
    model.save_pretrained(tmp_path)
    theirs = load(tmp_path)[1]
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))
    for (path, ours), want in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(theirs), strict=True
    ):
        assert np.abs(ours - want).max() <= 1e-4 * max(np.abs(want).max(), 1e-2 * largest), path
