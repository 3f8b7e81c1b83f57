"""A cross-encoder's head, in and out; its scores against transformers and sentence-transformers."""

import dataclasses

import jax
import numpy as np
import pytest
from test_pretrained import CONFIG, SIZES, make_tokens, randomize

from rocketjax.models import convert, pretrained
from rocketjax.models.cross_encoder import CrossEncoder
from rocketjax.models.heads import head_params, head_tensors
from rocketjax.runtime.errors import InputError

SIZE = CONFIG.hidden_size
ROBERTA = dataclasses.replace(CONFIG, family="roberta", position_offset=2, pad_token_id=1)


def draw(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def head(pooler):
    params = {"head": {"kernel": draw(SIZE, 1), "bias": draw(1)}}
    return params | ({"pooler": {"kernel": draw(SIZE, SIZE), "bias": draw(SIZE)}} if pooler else {})


@pytest.mark.parametrize("config", [CONFIG, ROBERTA], ids=["bert", "roberta"])
@pytest.mark.parametrize("pooler", [False, True], ids=["plain", "pooler"])
def test_out_and_in_again_is_exact(config, pooler):
    params = head(pooler)
    again = head_params(head_tensors(params, config), config, "here")
    assert again is not None and again.keys() == params.keys()
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_an_encoder_has_none():
    assert head_params({"bert.pooler.dense.weight": np.ones((SIZE, SIZE))}, CONFIG, "here") is None


def test_a_unit_without_a_pooler_is_read():
    tensors = {"classifier.weight": draw(1, SIZE), "classifier.bias": draw(1)}
    params = head_params(tensors, CONFIG, "here")
    assert params is not None and params.keys() == {"head"}
    np.testing.assert_array_equal(params["head"]["kernel"], tensors["classifier.weight"].T)


@pytest.mark.parametrize("prefix", ["bert", "ernie"])
def test_the_pooler_is_read_under_the_prefix_that_it_has(prefix):
    """An ERNIE without task types has a BERT's config, but for the name of its type."""
    tensors = {"classifier.weight": draw(1, SIZE), "classifier.bias": draw(1)}
    tensors[f"{prefix}.pooler.dense.weight"] = draw(SIZE, SIZE)
    tensors[f"{prefix}.pooler.dense.bias"] = draw(SIZE)
    params = head_params(tensors, CONFIG, "here")
    assert params is not None and params.keys() == {"head", "pooler"}
    kernel = tensors[f"{prefix}.pooler.dense.weight"].T
    np.testing.assert_array_equal(params["pooler"]["kernel"], kernel)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"classifier.weight": np.ones((3, 16))}, "3 labels.*num_labels must be 1"),
        ({"classifier.weight": np.ones((1, 16))}, "classifier.bias missing"),
        ({"classifier.weight": np.ones((1, 8)), "classifier.bias": np.ones(1)}, r"\[1, 8\]"),
        (
            {
                "classifier.weight": np.ones((1, 16)),
                "classifier.bias": np.ones(1),
                "bert.pooler.dense.weight": np.ones((16, 8)),
            },
            r"bert.pooler.dense.weight is float64 \[16, 8\]",
        ),
    ],
)
def test_a_bad_head_is_named(tensors, message):
    with pytest.raises(InputError, match=message):
        head_params(tensors, CONFIG, "here")


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
@pytest.mark.parametrize("pooler", [False, True], ids=["plain", "pooler"])
def test_transformers_gives_the_same_scores(family, pooler, tmp_path):
    torch = pytest.importorskip("torch", reason="the extra `parity` brings torch")
    import transformers

    config = CONFIG if family == "Bert" else dataclasses.replace(ROBERTA, max_positions=16)
    tokens = make_tokens(config)
    module = CrossEncoder(config, pooler=pooler)
    drawn = module.init(jax.random.key(0), tokens)["params"]
    params = jax.tree.map(lambda x: np.asarray(x) * 3, drawn) | head(pooler)
    tensors = convert.encoder_tensors(params["encoder"], config, f"{family.lower()}.")
    tensors |= head_tensors(params, config)
    pretrained.save_model(tmp_path, config, tensors, "ForSequenceClassification")
    theirs = getattr(transformers, f"{family}ForSequenceClassification").from_pretrained(tmp_path)
    mask = np.arange(tokens.ids.shape[1]) < np.asarray(tokens.length)[:, None]
    inputs = {
        "input_ids": np.asarray(tokens.ids),
        "token_type_ids": np.asarray(tokens.types),
        "attention_mask": mask,
    }
    with torch.no_grad():
        wanted = theirs.eval()(**{k: torch.tensor(v).long() for k, v in inputs.items()}).logits
    scores = module.apply({"params": params}, tokens)
    assert np.ptp(np.asarray(scores)) > 0.1
    np.testing.assert_allclose(scores, wanted[:, 0].numpy(), atol=1e-4)


def test_a_cross_encoder_of_transformers_gives_the_same_scores(tmp_path):
    torch = pytest.importorskip("torch", reason="the extra `parity` brings torch")
    import transformers

    theirs = transformers.BertForSequenceClassification(
        transformers.BertConfig(**SIZES, num_labels=1)
    )
    randomize(torch, theirs)
    theirs.eval().save_pretrained(tmp_path)
    tensors = pretrained.load_tensors(tmp_path)
    config = pretrained.read_encoder_config(tmp_path)
    found = head_params(tensors, config, "here")
    assert found is not None and "pooler" in found  # its tanh is part of the score
    params = {"encoder": convert.encoder_params(tensors, config, "here"), **found}
    tokens = make_tokens()
    mask = np.arange(tokens.ids.shape[1]) < np.asarray(tokens.length)[:, None]
    with torch.no_grad():
        wanted = theirs(
            input_ids=torch.tensor(np.asarray(tokens.ids)).long(),
            token_type_ids=torch.tensor(np.asarray(tokens.types)).long(),
            attention_mask=torch.tensor(mask).long(),
        ).logits[:, 0]
    scores = CrossEncoder(config, pooler=True).apply({"params": params}, tokens)
    np.testing.assert_allclose(scores, wanted.numpy(), atol=1e-4)
