"""Every family of encoders against transformers, live, in small: one test for all of them each."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rocketjax.models import convert, heads, pretrained
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.encoder import Encoder
from rocketjax.models.families import MODEL_TYPES
from rocketjax.models.names import NAMES
from rocketjax.models.positions import turns
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
# Those of microsoft/deberta-v3-base, whose texts here are shorter than any bucket but the first.
DEBERTA = {
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "max_relative_positions": -1,
    "position_biased_input": False,
    "layer_norm_eps": 1e-7,
}
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
    "deberta-v3": ("DebertaV2", SIZES | DEBERTA),
    "deberta-v3-far": ("DebertaV2", SIZES | DEBERTA | {"position_buckets": 10}),
    # All that v3 has otherwise; texts are longer than the distances that have an embedding.
    "deberta-v2": (
        "DebertaV2",
        SIZES
        | DEBERTA
        | {
            "share_att_key": False,
            "position_buckets": -1,
            "max_relative_positions": 20,
            "norm_rel_ebd": "none",
            "position_biased_input": True,
            "type_vocab_size": 2,
            "embedding_size": 8,
            "pooler_hidden_act": "tanh",
        },
    ),
    "deberta-c2p": ("DebertaV2", SIZES | DEBERTA | {"pos_att_type": "c2p"}),
    "deberta-p2c": (
        "DebertaV2",
        SIZES | DEBERTA | {"pos_att_type": ["p2c"], "share_att_key": False},
    ),
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


@each_family
def test_what_we_save_transformers_reads_and_in_out_in_is_exact(family, tmp_path):
    model_of(family, tmp_path / "theirs")
    config, params, _ = load(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    tensors = convert.encoder_tensors(params, config)
    pretrained.save_model(tmp_path / "ours", config, tensors, "Model")
    again_config, again, _ = load(tmp_path / "ours")
    assert again_config == config
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    model, info = transformers.AutoModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not {key for key in info["missing_keys"] if "pooler" not in key}
    assert not info["unexpected_keys"]
    assert model.config.architectures == [type(model).__name__]
    tokens = tokens_of(config)
    with torch.no_grad():
        theirs = theirs_of(model.eval(), config, tokens).last_hidden_state.numpy()
    ours = Encoder(config).apply({"params": params}, tokens)
    assert np.abs(ours - theirs)[own(tokens)].max() <= 1e-4


@each_family
def test_scores_are_those_of_the_own_head_of_a_family(family, tmp_path):
    model = model_of(family, tmp_path / "theirs", "ForSequenceClassification", num_labels=1)
    config, params, tensors = load(tmp_path / "theirs")
    head = heads.head_params(tensors, config, "here")
    assert head is not None and "pooler" in head
    tokens = tokens_of(config)
    with torch.no_grad():
        theirs = theirs_of(model, config, tokens).logits[:, 0].numpy()
    module = CrossEncoder(config, pooler=True)
    scores = module.apply({"params": {"encoder": params, **head}}, tokens)
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(scores, theirs, atol=1e-4)
    again = heads.head_params(heads.head_tensors(head, config), config, "here")
    jax.tree.map(np.testing.assert_array_equal, again, head)
    # The module draws just such parameters where weights have no head.
    drawn = jax.eval_shape(module.init, jax.random.key(0), tokens)["params"]
    assert jax.tree.map(lambda x: x.shape, drawn) == jax.tree.map(
        lambda x: x.shape, {"encoder": params, **head}
    )


@pytest.mark.parametrize("family", ["distilbert", "electra", "modernbert"])
def test_a_head_without_its_pooler_is_refused(family, tmp_path):
    model_of(family, tmp_path, "ForSequenceClassification", num_labels=1)
    config, _, tensors = load(tmp_path)
    pooler = NAMES[config.family].pooler
    del tensors[f"{pooler}.weight"]
    with pytest.raises(InputError, match=rf"^here: {pooler}\.weight is missing"):
        heads.head_params(tensors, config, "here")


@pytest.mark.parametrize(
    ("family", "length"),
    [
        ("modernbert", 2_048),
        ("mpnet", 500),
        ("nomic", 600),
        ("deberta-v3", 700),
        ("deberta-v3-far", 300),
    ],
)
def test_long_texts(family, length, tmp_path):
    """Wider than any window, beyond the last bucket; in float32, as they stand in packed rows."""
    model = model_of(family, tmp_path, max_position_embeddings=length + 2)
    config, params, _ = load(tmp_path)
    lengths = np.array([length, 77], np.int32)
    tokens = tokens_of(config, lengths)
    with torch.no_grad():
        theirs = theirs_of(model, config, tokens).last_hidden_state.numpy()
    rows = packed(tokens, length + 80)
    states = jax.jit(Encoder(config).apply)({"params": params}, rows).reshape(-1, 16)
    for text, (first, size) in enumerate(zip(rows.first, lengths, strict=True)):
        assert np.abs(states[first : first + size] - theirs[text, :size]).max() <= 1e-4


# ---- fields


def config_with(tmp_path, kind, **fields):
    values = {"model_type": kind, **SIZES, **(DEBERTA if kind == "deberta-v2" else {}), **fields}
    values = {key: value for key, value in values.items() if value != "absent"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    return pretrained.read_encoder_config(tmp_path)


FLAT = {"rope_theta": 500.0, "rope_type": "default"}
NESTED = {"full_attention": FLAT, "sliding_attention": FLAT}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("modernbert", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("modernbert", {"rope_parameters": FLAT}),
        ("modernbert", {"rope_parameters": NESTED | {"full_attention": FLAT | {"factor": 2.0}}}),
        ("modernbert", {"rope_parameters": NESTED | {"chunked_attention": FLAT}}),
        ("modernbert", {"rope_parameters": [FLAT]}),
        ("modernbert", {"layer_types": ["sliding_attention"] * 3}),
        ("modernbert", {"layer_types": ["full_attention"] * 2}),
        ("modernbert", {"hidden_activation": "mish"}),
        ("modernbert", {"classifier_activation": "mish"}),
        ("modernbert", {"classifier_pooling": "max"}),
        ("modernbert", {"attention_bias": "no"}),
        ("modernbert", {"norm_bias": 1}),
        ("modernbert", {"local_attention": 0}),
        ("modernbert", {"local_rope_theta": None}),
        ("modernbert", {"global_attn_every_n_layers": 0}),
        ("mpnet", {"relative_attention_num_buckets": 64}),
        ("mpnet", {"pad_token_id": 0}),
        ("electra", {"embedding_size": 0}),
        ("electra", {"position_embedding_type": "relative_key"}),
        ("distilbert", {"dim": "absent"}),
        ("deberta", {"model_type": "deberta"}),
        ("deberta-v2", {"conv_kernel_size": 3}),
        ("deberta-v2", {"relative_attention": "absent"}),
        ("deberta-v2", {"pos_att_type": "c2p|p2p"}),
        ("deberta-v2", {"pos_att_type": "absent"}),
        ("deberta-v2", {"norm_rel_ebd": "rms_norm"}),
        ("deberta-v2", {"attention_head_size": 8}),
        ("deberta-v2", {"pooler_hidden_size": 8}),
        ("deberta-v2", {"pooler_hidden_act": "mish"}),
        ("deberta-v2", {"max_relative_positions": 0.5}),
        ("deberta-v2", {"position_buckets": 40, "max_relative_positions": 20}),
        ("deberta-v2", {"type_vocab_size": -1}),
        ("nomic_bert", {"rope_parameters": FLAT | {"rope_type": "yarn"}}),
        ("nomic_bert", {"rope_parameters": FLAT | {"partial_rotary_factor": 0.5}}),
        ("nomic_bert", {"head_dim": 8}),
        ("gte", {"rope_scaling": {"type": "ntk", "factor": 8.0}}),
        ("new", {"layer_norm_type": "rms_norm"}),
        ("new", {"logn_attention_scale": True}),
        ("new", {"position_embedding_type": "absolute"}),
        ("new", {"pack_qkv": False}),
        ("new", {"rope_scaling": {"type": "ntk", "factor": 8.0, "mixed_b": 0.5}}),
        ("new", {"rope_scaling": {"type": "dynamic", "factor": 8.0}}),
        ("new", {"rope_scaling": {"type": "ntk", "factor": 0.5}}),
        ("new", {"rope_scaling": {"type": "ntk", "factor": True}}),
        ("new", {"rope_scaling": {"type": "ntk"}}),
        ("new", {"rope_scaling": 8.0}),
    ],
)
def test_what_is_not_computed_is_refused_by_name(kind, fields, tmp_path):
    name = next(iter(fields))
    with pytest.raises(InputError, match=rf"config\.json: {name} (is|\d)") as refused:
        config_with(tmp_path, kind, **fields)
    assert "supported" in str(refused.value) or "must be" in str(refused.value)


@pytest.mark.parametrize("kind", [*MODEL_TYPES, "new"])
def test_what_nobody_knows_of_a_family_is_refused_by_name(kind, tmp_path):
    """An activation, a scaling of positions, and what is not yet thought of; of all families."""
    sizes = DISTILBERT if kind == "distilbert" else {}
    activation = {"modernbert": "hidden_activation", "distilbert": "activation"}
    for name, value in (
        (activation.get(kind, "hidden_act"), "mish"),
        ("rope_scaling", {"type": "yarn", "factor": 4.0}),
        ("rotary_of_tomorrow", 2),
        ("post_layer_norm", True),
    ):
        with pytest.raises(InputError, match=rf"config\.json: {name} is .*; .*supported"):
            config_with(tmp_path, kind, **sizes, **{name: value})
    config_with(tmp_path, kind, **sizes, rope_scaling=None, post_layer_norm=False, colour="red")


def test_modernberts_older_fields_say_the_same(tmp_path):
    old = {"global_attn_every_n_layers": 2, "global_rope_theta": 500, "local_rope_theta": 40.0}
    new = {
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 40.0},
        },
    }
    assert config_with(tmp_path, "modernbert", **old) == config_with(tmp_path, "modernbert", **new)
    every = config_with(tmp_path, "modernbert", global_attn_every_n_layers=1)
    assert (every.window, every.global_every) == (0, 1)


# ---- models with code of their own, which is not run

# As nomic-ai wrote it.
NOMIC = {
    "activation_function": "swiglu",
    "causal": False,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 48,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "n_embd": 16,
    "n_head": 4,
    "n_inner": 24,
    "n_layer": 3,
    "n_positions": 64,
    "parallel_block": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": 2.0,
    "type_vocab_size": 2,
    "vocab_size": 60,
}


def nomic_with(tmp_path, **fields):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "nomic_bert", **NOMIC, **fields})
    )
    return pretrained.read_encoder_config(tmp_path)


def test_nomics_own_fields_are_read_as_those_of_transformers(tmp_path):
    theirs = config_with(tmp_path, "nomic_bert", max_position_embeddings=48)
    assert nomic_with(tmp_path) == theirs
    assert nomic_with(tmp_path, max_trained_positions=80).max_length == 64


@pytest.mark.parametrize(
    "fields",
    [
        {"qkv_proj_bias": True},
        {"rotary_emb_fraction": 0.5},
        {"rotary_emb_interleaved": True},
        {"prenorm": True},
        {"activation_function": "gelu"},
        {"num_experts": 8},
        {"moe_every_n_layers": 2},
    ],
)
def test_what_nomics_code_would_do_otherwise_is_refused(fields, tmp_path):
    with pytest.raises(InputError, match=rf"config\.json: {next(iter(fields))} is"):
        nomic_with(tmp_path, **fields)


def ntk_frequencies(theta, factor, size):
    """Of a head's pairs, as Alibaba-NLP/new-impl's modeling.py has them without mixed_b (read in
    copies of it on GitHub, and in vLLM's NTKScalingRotaryEmbedding, which serves these models).

    Equation 6 of https://kexue.fm/archives/9706: wavelengths of the base theta * factor, and all of
    them longer by the factor that the last one then lacks. The makers' code fills its table for
    max_position_embeddings * factor tokens before the first text comes, and anew for longer ones:
    so these hold at every length.
    """
    pair = np.arange(size // 2)
    return (theta * factor) ** (-2 * pair / size) * factor ** (-2 / size)


@pytest.mark.parametrize("factor", [1, 2.0, 8])  # gte-large-en-v1.5 has 2, gte-multilingual 8
def test_new_is_gte_with_scaled_wavelengths(factor, tmp_path):
    plain = config_with(tmp_path, "new", rope_theta=500, type_vocab_size=0)
    assert plain == config_with(
        tmp_path, "gte", rope_parameters=FLAT, type_vocab_size=0, pad_token_id=0
    )
    scaling = {"type": "ntk", "factor": factor}
    scaled = config_with(tmp_path, "new", rope_theta=20_000, rope_scaling=scaling, hidden_size=256)
    assert scaled.max_positions == SIZES["max_position_embeddings"]
    places = np.array([*range(60), 511, 512, 8_000, 65_535])
    cos, sin = turns(jnp.asarray(places), 64, scaled.rope_theta, scaled.rope_factor)
    angle = places[:, None] * ntk_frequencies(20_000, factor, 64)
    for ours, theirs in ((cos, np.cos(angle)), (sin, np.sin(angle))):
        # float32, in which their code multiplies as well, holds an angle to 2 ** -23 of it.
        assert (np.abs(ours - theirs) <= 1e-6 + angle * 2**-22).all()


@pytest.mark.parametrize("length", [31, 600])  # within the positions it was trained on, and beyond
def test_new_computes_what_gte_does_with_those_frequencies(length, tmp_path):
    """Live: transformers' own GTE, its frequencies replaced by the formula's."""
    model = model_of("gte", tmp_path, max_position_embeddings=700)
    frequencies = torch.from_numpy(ntk_frequencies(20_000, 8.0, 4).astype(np.float32))
    model.rotary_emb.inv_freq.copy_(frequencies)
    sizes = {"type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": 700}
    rope = {"rope_theta": 20_000, "rope_scaling": {"type": "ntk", "factor": 8.0}}
    config = config_with(tmp_path, "new", **sizes, **rope)
    _, params, _ = load(tmp_path)
    tokens = tokens_of(config, np.array([length, 18, 1], np.int32))
    with torch.no_grad():
        theirs = theirs_of(model, config, tokens).last_hidden_state.numpy()
    ours = jax.jit(Encoder(config).apply)({"params": params}, tokens)
    assert np.abs(ours - theirs)[own(tokens)].max() <= 1e-4


def test_scaled_wavelengths_are_those_of_transformers(tmp_path):
    rope = {"rope_type": "linear", "rope_theta": 500.0, "factor": 1.5}
    model = model_of("gte", tmp_path, rope_parameters=rope)
    config, params, _ = load(tmp_path)
    assert config.rope_factor == 1.5
    tokens = tokens_of(config)
    with torch.no_grad():
        theirs = theirs_of(model, config, tokens).last_hidden_state.numpy()
    ours = Encoder(config).apply({"params": params}, tokens)
    assert np.abs(ours - theirs)[own(tokens)].max() <= 1e-4
    pretrained.save_model(tmp_path, config, convert.encoder_tensors(params, config), "Model")
    assert load(tmp_path)[0] == config
