"""The whole run on a tiny collection with tiny random weights: artefacts, loading, bad input."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny import tokens
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import rocketjax
from rocketjax import pipeline
from rocketjax.config import (
    Config,
    DataConfig,
    EvaluateConfig,
    ListConfig,
    LossConfig,
    OptimizerConfig,
    RerankerConfig,
    RetrieverConfig,
    StageConfig,
    TextConfig,
    load,
)
from rocketjax.errors import InputError
from rocketjax.fit import NonFiniteError
from rocketjax.models import pretrained
from rocketjax.models.encoder import Encoder, EncoderConfig
from rocketjax.train import main

TOPICS = ["cat purr whisker", "dog bark leash", "sun ray warm", "sea wave salt", "tree leaf root"]
WORDS = sorted({word for topic in TOPICS for word in topic.split()})


def say(_):
    """Nothing."""


def watch(items, _):
    return items


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model folder as transformers writes it: two random layers and a word tokenizer."""
    folder = tmp_path_factory.mktemp("weights")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    config = EncoderConfig(len(vocabulary), 32, 2, 4, 64, 64)  # 64 positions
    text = tokens(np.random.default_rng(0), 1)
    params = jax.jit(Encoder(config).init)(jax.random.key(0), text)["params"]
    params = jax.tree.map(lambda x: np.asarray(x) * 2, params)
    tensors = pretrained.encoder_tensors(params, config)
    pretrained.save_model(folder, config, tensors, "BertModel")
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """A BEIR folder: a query's words come from its passage's topic."""
    folder = tmp_path_factory.mktemp("topics")
    rng = np.random.default_rng(0)

    def text(topic):
        return " ".join(rng.choice(topic.split(), 6))

    passages = [{"_id": f"p{i}", "title": "", "text": text(TOPICS[i % 5])} for i in range(60)]
    queries, qrels = [], {"train": [], "dev": []}
    for i in range(60):
        queries.append({"_id": f"q{i}", "text": passages[i]["text"]})
        qrels["train" if i < 40 else "dev"].append(f"q{i}\tp{i}\t1")
    for name, rows in (("corpus", passages), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels").mkdir()
    for split, rows in qrels.items():
        header = "query-id\tcorpus-id\tscore\n"
        (folder / "qrels" / f"{split}.tsv").write_text(header + "\n".join(rows) + "\n")
    return folder


def config(weights, collection, run_dir, **changes):
    optimizer = OptimizerConfig(retriever_lr=3e-3, reranker_lr=3e-3)
    base = Config(
        run_dir=str(run_dir),
        data=DataConfig(collection=str(collection), max_eval_queries=15),
        text=TextConfig(query_length=10, passage_length=10, pair_length=18, title="segment"),
        retriever=RetrieverConfig(str(weights), towers="separate", pooling="cls", normalize=False),
        reranker=RerankerConfig(str(weights)),
        lists=ListConfig(length=4, top_n=30),
        reranker_warmup=StageConfig(steps=3, batch=8, optimizer=optimizer),
        joint=StageConfig(steps=6, batch=8, optimizer=optimizer),
        loss=LossConfig(),
        evaluate=EvaluateConfig(top_k=20, rerank_depth=10),
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def finished(weights, collection, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return pipeline.run(config(weights, collection, folder), say, watch)


def test_a_run_leaves_whole_artefacts(finished):
    folder = finished.folder
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.yaml", "lists.jsonl", "train.jsonl", "report.json"),
        *("before", "after", "retriever", "reranker"),
    }
    log = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in log] == ["warmup"] * 3 + ["joint"] * 6
    assert {"loss", "retriever", "reranker", "distill", "gradient_norm"} <= set(log[-1])
    report = json.loads((folder / "report.json").read_text())
    assert {row["measure"] for row in report["rows"]} == {"MRR@10", "recall@50", "nDCG@10"}
    assert len((folder / "after" / "reranker.trec").read_text().splitlines()) == 15 * 20
    assert load(folder / "config.yaml").joint.steps == 6


def test_the_saved_pair_scores_as_the_run_judged_it(finished, collection):
    """Loaded from disk, both models give the scores that stand in the run's TREC files."""
    model = rocketjax.load(finished.folder)
    texts = {
        row["_id"]: row["text"]
        for name in ("corpus", "queries")
        for row in map(json.loads, (collection / f"{name}.jsonl").read_text().splitlines())
    }
    first = (finished.folder / "after" / "reranker.trec").read_text().splitlines()[0].split()
    query, passage = texts[first[0]], texts[first[2]]
    assert model.score([query], [passage])[0] == pytest.approx(float(first[4]), rel=1e-5, abs=1e-6)
    first = (finished.folder / "after" / "retriever.trec").read_text().splitlines()[0].split()
    dot = model.encode_query([texts[first[0]]]) @ model.encode_passage([texts[first[2]]]).T
    assert dot[0, 0] == pytest.approx(float(first[4]), rel=1e-5, abs=1e-6)
    ranked = model.rerank(query, list(texts.values())[:7], top_k=3)
    scores = model.score([query] * 7, list(texts.values())[:7])
    assert [item.index for item in ranked] == list(np.argsort(-scores, kind="stable")[:3])


def test_scores_depend_on_neither_company_nor_order(finished):
    model = rocketjax.load(finished.folder)
    rng = np.random.default_rng(0)
    queries = [" ".join(rng.choice(WORDS, rng.integers(1, 8))) for _ in range(70)]
    passages = [" ".join(rng.choice(WORDS, rng.integers(1, 14))) for _ in range(70)]
    scores = model.score(queries, passages)
    order = rng.permutation(70)
    shuffled = model.score([queries[i] for i in order], [passages[i] for i in order])
    np.testing.assert_allclose(shuffled, scores[order], atol=1e-5)
    alone = model.score(queries[:1], passages[:1])
    np.testing.assert_allclose(alone, scores[:1], atol=1e-5)
    assert model.score([], []).shape == (0,)
    assert model.encode_query([]).shape == (0, 32)


def test_new_lengths_and_sizes_do_not_recompile_every_time(finished):
    from rocketjax.inference import _apply

    model = rocketjax.load(finished.folder)
    rng = np.random.default_rng(0)

    def call(n):
        texts = [" ".join(rng.choice(WORDS, rng.integers(1, 40))) for _ in range(n)]
        model.score(texts, texts)

    for n in (1, 50, 400):
        call(n)
    compiled = _apply._cache_size()
    for n in rng.integers(1, 500, 40):
        call(int(n))
    assert _apply._cache_size() == compiled


def test_same_seed_same_run(weights, collection, tmp_path, finished):
    again = pipeline.run(config(weights, collection, tmp_path / "again"), say, watch)
    assert again.rows == finished.rows
    for name in ("lists.jsonl", "train.jsonl", "retriever/query/model.safetensors"):
        assert (again.folder / name).read_bytes() == (finished.folder / name).read_bytes()


def test_an_earlier_run_is_not_lost_unasked(weights, collection, finished, tmp_path):
    settings = config(weights, collection, finished.folder)
    with pytest.raises(InputError, match="--overwrite"):
        pipeline.run(settings, say, watch)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="holds other files and no run"):
        pipeline.run(config(weights, collection, tmp_path, overwrite=True), say, watch)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_a_diverging_run_stops_at_the_step(weights, collection, tmp_path):
    wild = OptimizerConfig(retriever_lr=1e30, reranker_lr=1e30, warmup=0.0)
    settings = config(weights, collection, tmp_path / "wild", joint=StageConfig(20, 8, wild))
    with pytest.raises(NonFiniteError, match=r"step \d+: .*loss = nan.*lower the learning rate"):
        pipeline.run(settings, say, watch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joint": StageConfig(1, 12)}, "joint.batch is 12, which 8 devices"),
        ({"data": DataConfig("no/such/folder")}, "data.collection: 'no/such/folder'"),
        ({"data": DataConfig("", eval_split="test")}, "no split 'test'; it has dev, train"),
        ({"text": TextConfig(pair_length=96)}, "text.pair_length is 96, .* positions for 64"),
        ({"retriever": RetrieverConfig("/no/such/weights")}, "/no/such/weights"),
    ],
)
def test_bad_input_is_one_clear_error(weights, collection, tmp_path, changes, message):
    settings = config(weights, collection, tmp_path / "run", **changes)
    if settings.data.collection == "":
        data = dataclasses.replace(settings.data, collection=str(collection))
        settings = dataclasses.replace(settings, data=data)
    with pytest.raises(InputError, match=message):
        pipeline.run(settings, say, watch)


def test_a_tokenizer_of_another_model_is_refused(weights, collection, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in weights.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"vocab_size": 7}))
    settings = config(folder, collection, tmp_path / "run")
    with pytest.raises(InputError, match=r"tokens, but config\.json says vocab_size 7"):
        pipeline.run(settings, say, watch)


def test_empty_texts_and_unequal_pairs_are_named(finished):
    model = rocketjax.load(finished.folder)
    with pytest.raises(InputError, match=r"passages\[1\] is empty"):
        model.score(["cat", "dog"], ["cat", "  "])
    with pytest.raises(InputError, match=r"queries\[0\] is empty"):
        model.encode_query([""])
    with pytest.raises(InputError, match="2 queries and 1 passages"):
        model.score(["cat", "dog"], ["cat"])


def test_load_names_what_is_wrong(finished, tmp_path):
    with pytest.raises(InputError, match=r"no trained model here .*retriever/rocketjax.json"):
        rocketjax.load(tmp_path)
    for name in ("retriever", "reranker"):
        (tmp_path / name).mkdir()
        settings = (finished.folder / "reranker" / "rocketjax.json").read_text()
        (tmp_path / name / "rocketjax.json").write_text(settings)
    with pytest.raises(InputError, match="kind is 'reranker', but a retriever is wanted"):
        rocketjax.load(tmp_path)


def test_the_command_prints_one_line_and_leaves_with_2(capsys, tmp_path):
    assert main(["--run-dir", str(tmp_path), "--data.collection", "nowhere"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: data.collection: 'nowhere'") and "Traceback" not in error
