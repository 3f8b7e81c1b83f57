"""modules.json of sentence-transformers: what it says is done, what is not computed is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketjax.config.schema import ComputeConfig, RetrieverConfig, TextConfig
from rocketjax.inference import start as start_module
from rocketjax.models.sentence_transformers import Pooled, read_pooling
from rocketjax.runtime.errors import InputError


def write(folder, names, pooling, place="1_Pooling"):
    paths = ["", place, "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(names, paths, strict=False))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


OLD_CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}


@pytest.mark.parametrize(
    ("names", "pooling", "wanted"),
    [
        (["Transformer", "Pooling"], OLD_CLS, Pooled("cls", False)),
        (["Transformer", "Pooling", "Normalize"], OLD_CLS, Pooled("cls", True)),
        (["Transformer", "Pooling"], {"pooling_mode": "mean"}, Pooled("mean", False)),
        (["Transformer", "Pooling"], {"pooling_mode": ["cls"]}, Pooled("cls", False)),
    ],
)
def test_read(names, pooling, wanted, tmp_path):
    assert read_pooling(tmp_path) is None
    write(tmp_path, names, pooling)
    assert read_pooling(tmp_path) == wanted


@pytest.mark.parametrize(
    ("names", "pooling", "place", "message"),
    [
        (["Transformer", "Pooling", "Dense"], OLD_CLS, "1_Pooling", "Dense; supported"),
        (["Transformer"], OLD_CLS, "1_Pooling", "modules are Transformer; supported"),
        (["Transformer", "Pooling"], OLD_CLS, "../1_Pooling", "path of Pooling"),
        (["Transformer", "Pooling"], {"pooling_mode": "max"}, "1_Pooling", "'max'; supported"),
        (["Transformer", "Pooling"], {"pooling_mode": ["cls", "mean"]}, "1_Pooling", "supported"),
        (["Transformer", "Pooling"], [], "1_Pooling", "expected a JSON object"),
        (
            ["Transformer", "Pooling"],
            {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            "1_Pooling",
            "pooling_mode_max_tokens; supported",
        ),
    ],
)
def test_what_is_not_computed_is_refused(names, pooling, place, message, tmp_path):
    write(tmp_path, names, pooling, place)
    with pytest.raises(InputError, match=message):
        read_pooling(tmp_path)


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_an_error_of_ours(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    (folder / "modules.json").write_bytes(data)
    with pytest.raises(InputError, match=r"modules\.json"):
        read_pooling(folder)


def test_weights_say_how_they_are_pooled_unless_told(weights, tmp_path):
    text = TextConfig(query_length=10, passage_length=12, pair_length=20)

    def start(config):
        return start_module.pretrained_retriever(config, text, ComputeConfig()).module

    plain = start(RetrieverConfig(str(weights)))
    assert (plain.pooling, plain.normalize) == ("cls", False)  # RocketQAv2's
    folder = tmp_path / "weights"
    folder.mkdir()
    for path in weights.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    write(folder, ["Transformer", "Pooling", "Normalize"], {"pooling_mode": "mean"})
    told = start(RetrieverConfig(str(folder)))
    assert (told.pooling, told.normalize) == ("mean", True)
    asked = start(RetrieverConfig(str(folder), pooling="cls", normalize=False))
    assert (asked.pooling, asked.normalize) == ("cls", False)
