"""The benchmark: real texts, both sides doing the same work, figures that follow from times."""

import dataclasses
import json
import math
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from on_disk import make_weights
from tiny import list_batch, models, packed, vectors_folder

from rocketjax.bench import __main__ as bench
from rocketjax.bench import collectives, compiles, families, latency, plan, search
from rocketjax.bench import facts as bench_facts
from rocketjax.bench import measure as pair
from rocketjax.bench.measure import worker_process
from rocketjax.bench.recipes import BERT_BASE, sizes_of
from rocketjax.bench.search import cut
from rocketjax.bench.shapes import vector_bytes
from rocketjax.bench.work import Ours, Work, forward_flops, make_work
from rocketjax.config import options
from rocketjax.config.checks import mined_only
from rocketjax.config.loss import LossConfig
from rocketjax.config.schema import MINILM, ComputeConfig, OptimizerConfig
from rocketjax.data.load import load_collection
from rocketjax.models.architecture import Compute, Distances, EncoderConfig
from rocketjax.models.layer import How, States, init_layers, layer
from rocketjax.models.positions import Places
from rocketjax.retrieval.scann import missing
from rocketjax.runtime.devices import data_parallel
from rocketjax.runtime.errors import InputError
from rocketjax.text.batch import Tokens
from rocketjax.text.rows import one_a_row
from rocketjax.training import step as steps
from rocketjax.training.optimizer import make_optimizer
from rocketjax.training.step import init_state


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of one layer: what takes the time here is to compile the train steps."""
    return make_weights(tmp_path_factory.mktemp("weights"), layers=1)


@pytest.fixture(scope="module")
def work(weights, collection):
    loaded = load_collection(str(collection))
    lengths = (10, 12, 20)
    return make_work(loaded, loaded.split("dev"), str(weights), 10, 4, 3, lengths)


def test_work_is_drawn_from_the_collection_and_travels(work, collection, tmp_path):
    loaded = load_collection(str(collection))
    texts = {passage.text for passage in loaded.passages}
    assert len(work.passages) == len(work.pairs) == 10
    assert set(work.passages) <= texts
    assert [len(texts) for _, texts in work.lists] == [3] * 4
    work.write(tmp_path / "work.json")
    again = Work.read(tmp_path / "work.json")
    assert again.passages == work.passages
    assert [tuple(pair) for pair in again.pairs] == work.pairs


def test_figures_follow_from_the_times(monkeypatch):
    times = iter([9.0, 2.0, 1.0, 4.0])
    monkeypatch.setattr(pair, "taken", lambda run: pair.Taken(next(times, 2.0), 1.0))
    answers = iter([{"seconds": s, "setting": "its own"} for s in (1.0, 4.0, 3.0, 8.0)])
    result = pair.compare("encode", "passages", 12, lambda: None, lambda _: next(answers), 3)
    # Ours 9, 2, 1; theirs 4, 3, 8: medians 2 and 4, ratios 0.44, 1.5, 8.
    assert (result.ours, result.theirs, result.ratio) == (6.0, 3.0, 1.5)
    assert result.setting == "its own" and result.interval is None


def test_the_median_ratio_has_an_interval_where_rounds_suffice():
    """By the ratios' own order: the least and the greatest of six leave the median in 31 of 32."""
    ratios = [1.1, 1.3, 1.2, 1.6, 1.0, 1.4]
    assert pair.result("t", "u", 1, [(1.0, r) for r in ratios], "").interval == (1.0, 1.6)
    many = [(2.0, 2.0 * r) for r in np.linspace(1, 2, 31)]
    low, high = pair.result("t", "u", 1, many, "").interval
    assert 1 < low < 1.5 < high < 2
    assert pair.result("t", "u", 1, many[:5], "").interval is None


def test_processor_time_is_that_of_the_work_and_not_of_waiting():
    waited = pair.taken(lambda: time.sleep(0.2))
    assert waited.wall >= 0.2 and waited.processor < 0.1
    rng = np.random.default_rng(0)
    worked = pair.taken(lambda: [rng.random(100_000).sum() for _ in range(300)])
    assert worked.processor > 0.02


def small(family):
    """A shape of the benchmark in small; heads stay even."""
    (shape,) = (shape for shape in families.SHAPES.values() if shape.family == family)
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_layers": 4, "num_heads": 4}
    return dataclasses.replace(shape, **sizes, intermediate_size=48, max_positions=64)


@pytest.mark.parametrize("family", ["modernbert", "bert"])
def test_both_sides_of_a_drawn_shape_compute_the_same(family, work, tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="the extra `bench` brings it")
    own = families.drawn(small(family), work, tmp_path / "models")
    ours = Ours(own, ComputeConfig())
    theirs = library.SentenceTransformer(own.weights, device="cpu")
    vectors = ours.retriever.encode_passage(own.passages)
    np.testing.assert_allclose(vectors, theirs.encode(own.passages), atol=1e-5)
    assert np.ptp(vectors, axis=0).max() > 1e-3
    queries, passages = zip(*own.pairs, strict=True)
    scores = ours.reranker.score(queries, passages)
    judge = library.CrossEncoder(own.reranker, device="cpu")
    np.testing.assert_allclose(scores, judge.predict(own.pairs), atol=1e-5)


@pytest.mark.slow
def test_families_are_measured_by_both_clocks(work, monkeypatch):
    pytest.importorskip("sentence_transformers", reason="the extra `bench` brings it")
    monkeypatch.setattr(families, "SHAPES", {"small": small("modernbert")})
    found = list(families.measure(work, ComputeConfig(), 1, lambda line: None))
    assert [result.task for result in found] == ["small: encode"] * 2 + ["small: rerank"] * 2
    assert [result.unit for result in found] == ["tokens", "of processors' time"] * 2
    assert all(result.ours > 0 and result.theirs > 0 for result in found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize("family", ["modernbert", "bert"])
@pytest.mark.parametrize("runtime", ["compiled", "onnx", "openvino"])
def test_other_runtimes_compute_the_same(runtime, family, work, tmp_path):
    pytest.importorskip("sentence_transformers", reason="the extra `bench` brings it")
    pytest.importorskip("openvino", reason="the extra `bench` brings it")
    from rocketjax.bench.rivals.texts import Rivals

    rivals = Rivals(families.drawn(small(family), work, tmp_path / "models"))
    for make in (rivals.encode, rivals.rerank):
        expected, own = (np.asarray(make(each)(4)) for each in ("torch", runtime))
        np.testing.assert_allclose(own.ravel(), expected.ravel(), atol=2e-6)
        assert np.ptp(expected, axis=0).max() > 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # its own
@pytest.mark.parametrize("family", ["modernbert", "bert"])
def test_flag_embedding_scores_the_same_pairs_alike(family, work, tmp_path):
    pytest.importorskip("sentence_transformers", reason="the extra `bench` brings it")
    pytest.importorskip("FlagEmbedding", reason="no extra brings it")
    from rocketjax.bench.rivals.texts import Rivals

    own = families.drawn(small(family), work, tmp_path / "models")
    scores = Ours(own, ComputeConfig()).reranker.score(*zip(*own.pairs, strict=True))
    found = Rivals(own).rerank("flag")(4)
    np.testing.assert_allclose(found, scores, atol=2e-6)
    assert np.ptp(scores) > 1e-4


@pytest.mark.slow
def test_flag_embedding_is_no_rival_in_encoding_and_its_lack_is_named(
    weights, collection, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("sentence_transformers", reason="the extra `bench` brings it")
    (tmp_path / "FlagEmbedding.py").write_text("raise ImportError('no name of 5.24')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    args = ["--tasks", "encode", "rerank", "--runtimes", "flag", "--weights", str(weights)]
    args += ["--collection", str(collection), "--passages", "10", "--lists", "4", "--length", "3"]
    args += ["--passage-length", "12", "--query-length", "10", "--pair-length", "20"]
    assert bench.main(args) == 2
    said = " ".join("".join(capsys.readouterr()).split())
    assert "encode flag: nothing to compare" in said
    assert "no name of 5.24; pip install FlagEmbedding 'transformers<5.24'" in said
    assert "rocketjax[bench]" not in said


def test_what_is_slower_than_before_is_named(tmp_path):
    def row(task, ratio, interval):
        return pair.Result(task, "passages", 2.0 * ratio, 2.0, ratio, "", interval)

    path = tmp_path / "earlier.json"
    rows = [row("encode", 1.2, None)._asdict(), row("train", 1.3, None)._asdict()]
    path.write_text(json.dumps({"results": rows}))
    earlier = pair.read_results(path)
    noisy = [row("encode", 1.0, (0.9, 1.1)), row("rerank", 0.1, (0.1, 0.1))]
    assert list(pair.lost(noisy, earlier)) == []
    (line,) = pair.lost([row("encode", 1.0, (0.9, 1.07))], earlier)
    assert "encode: 1.00" in line and "1.20 before" in line
    with pytest.raises(InputError, match="--rounds 6"):
        list(pair.lost([row("train", 1.0, None)], earlier))
    with pytest.raises(InputError, match="none measured now"):
        list(pair.lost([row("mine", 1.0, None)], earlier))
    path.write_text("{}")
    with pytest.raises(InputError, match=r"earlier\.json: is not what --json writes"):
        pair.read_results(path)


def test_the_plain_step_trains(work):
    """Its loss falls, so the rival is not let off any work."""
    pytest.importorskip("torch", reason="the extra `parity` brings torch")
    from rocketjax.bench.rivals.texts import make_step

    step = make_step(work)
    losses = [step() for _ in range(3)]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[2] < losses[0]  # the same lists again and again


def test_the_command_prints_and_writes_its_figures(weights, collection, tmp_path, capsys):
    pytest.importorskip("sentence_transformers", reason="the extra `parity` brings it")
    args = ["--tasks", "encode", "rerank", "train", "--weights", str(weights), "--rounds", "1"]
    args += ["--collection", str(collection), "--passages", "10", "--lists", "4", "--length", "3"]
    args += ["--passage-length", "12", "--query-length", "10", "--pair-length", "20"]
    assert bench.main([*args, "--json", str(tmp_path / "figures.json")]) == 0, (
        capsys.readouterr().err
    )
    assert "ratio" in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["task"] for row in figures["results"]] == ["encode", "rerank", "train"]
    assert all(row["ours"] > 0 and row["theirs"] > 0 for row in figures["results"])


def test_pieces_are_the_passages_words_and_as_many_as_asked_for(collection):
    loaded = load_collection(str(collection))  # 60 passages of 6 words
    pieces = cut(loaded, 2, 180).passages
    assert len(pieces) == 180
    words = [word for piece in pieces for word in piece.text.split()]
    assert words == [word for passage in loaded.passages for word in passage.text.split()]
    more = cut(loaded, 2, 250).passages  # pieces then start at every word
    assert len(more) == len({piece.id for piece in more}) == 250
    assert [piece.text.split()[0] for piece in more[:5]] == loaded.passages[0].text.split()[:5]
    assert len(cut(loaded, 2, 1_000).passages) == 300  # and more there are not


@pytest.mark.skipif(bool(missing()), reason="scann is not installed (no wheel here)")
def test_searches_find_what_they_are_tuned_for(tmp_path):
    pytest.importorskip("faiss", reason="the extra `bench` brings it")
    pytest.importorskip("torch", reason="the extra `bench` brings it")
    rng = np.random.default_rng(0)
    array = rng.standard_normal((600, 16)).astype(np.float32)
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    vectors = vectors_folder(tmp_path, array, shard=600)
    said = []
    queries = array[:40] + 0.1 * rng.standard_normal((40, 16)).astype(np.float32)
    results = list(search.measure(vectors, queries, [1], 1, said.append))
    assert [result.task for result in results] == [
        "search by 1",
        "search by 32",
        "search by 512",
        "search, 1 thread",
        "search exact",
    ]
    assert all(result.ours > 0 and result.theirs > 0 for result in results)
    beside = results[3].setting
    assert "recall 1.000; IVFFlat" in beside  # brute force on our side
    assert float(beside.rpartition(" ")[2]) >= 0.9
    assert search.recall(np.array([[1, 2], [3, 4]]), np.array([[2, 9], [4, 3]])) == 0.75


@pytest.mark.slow
def test_mining_is_measured_beside_the_same_work(weights, collection, tmp_path, capsys):
    pytest.importorskip("sentence_transformers", reason="the extra `bench` brings it")
    args = ["--tasks", "mine", "--weights", str(weights), "--collection", str(collection)]
    args += ["--rounds", "1", "--mined", "3", "--vectors-folder", str(tmp_path / "vectors")]
    args += ["--query-length", "10", "--passage-length", "12", "--pair-length", "20"]
    assert bench.main([*args, "--length", "3"]) == 0, capsys.readouterr().err
    assert "its batch size" in capsys.readouterr().out
    assert (tmp_path / "vectors" / "passages" / "00000.npy").is_file()


def test_bytes_of_collectives_are_read_off_a_program():
    program = """
  %all-reduce.1 = (f32[3,4]{1,0}, f32[]) all-reduce(%a, %b), replica_groups={{0,1}}, to_apply=%add
  %all-gather.2 = bf16[2,8]{1,0} all-gather(%c), dimensions={0}
  %reduce-scatter = f32[5]{0} reduce-scatter(%d), to_apply=%add
  %fusion = f32[1000]{0} fusion(%all-reduce.1), kind=kLoop
"""
    found = collectives.sent(program, 2)
    assert found == {"all-reduce": 52, "all-gather": 32, "reduce-scatter": 40}


def test_a_step_sends_its_gradients_and_the_batch_s_vectors():
    retriever, _, params = models(shared=True)
    params = {"retriever": params["retriever"]}
    optimizer = make_optimizer(OptimizerConfig(), 10)
    objective = steps.retriever_objective(retriever, LossConfig())
    step = partial(steps.train_step, objective=objective, optimizer=optimizer)
    program = data_parallel(step, jax.devices()[:2], backend="shard_map")
    lowered = program.lower(init_state(params, optimizer, 1), packed(list_batch(), 2))  # pyright: ignore
    sent = sum(collectives.sent(lowered.compile().as_text(), 2).values())
    size = sum(x.nbytes for x in jax.tree.leaves(params)) + 2 * 4 * 8 * 5 * 16  # there and back
    assert size <= sent <= size + 1_000  # ids and masks of 40 passages, counts and metrics


def test_facts_follow_from_what_was_run(work, monkeypatch):
    monkeypatch.setattr(bench_facts, "TIMED_STEPS", 1)
    monkeypatch.setattr(bench_facts, "WARM_UP_STEPS", 1)
    monkeypatch.setattr(bench_facts, "MATRIX", 64)
    ours = Ours(work, ComputeConfig(batch=2))
    facts = [*bench_facts.feed_facts(ours, 1), *bench_facts.token_facts(ours, 1)]
    value = {fact.name: fact.value for fact in facts}
    assert value["8 tokens beside 12"] == pytest.approx(
        value["encoding texts of 8 tokens"] / value["encoding texts of 12 tokens"]
    )
    assert all(number > 0 for number in value.values())


@pytest.mark.slow  # compiles a train step for each length
def test_memory_is_that_of_a_chunk(work):
    ours = Ours(work, ComputeConfig(batch=2))
    value = {fact.name: fact.value for fact in bench_facts.memory_facts(ours, 2, 1, (2, 4))}
    grown = value["memory, lists of 4"] / value["memory, lists of 2"]
    assert value["memory, lists of 4 beside 2"] == pytest.approx(grown)
    assert grown < 1.5  # twice the passages, the same chunk
    assert all(number > 0 for number in value.values())


def test_compilations_are_counted():
    with compiles.counting() as taken:
        jax.jit(lambda x: x * 3 + 1)(np.arange(7.0))
        once = len(taken)
        assert once and sum(taken) > 0
    jax.jit(lambda x: x * 5 + 2)(np.arange(7.0))
    assert len(taken) == once


def test_a_process_that_prints_much_is_answered_and_its_last_words_are_kept(tmp_path):
    """More than a pipe holds, which nobody would empty."""
    (tmp_path / "chatty.py").write_text(
        "from rocketjax.bench.measure import answer\n"
        "def to(question):\n"
        "    print('x' * 1_000_000)\n"
        "    if question == 'stop':\n"
        "        raise SystemExit('last words')\n"
        "    return {'question': question}\n"
        "answer(to)\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    with worker_process("chatty", tmp_path, os.environ | {"PYTHONPATH": path}) as ask:
        assert ask("go on") == {"question": "go on"}
        with pytest.raises(InputError, match=r"^chatty stopped: last words$"):
            ask("stop")


def test_a_plan_multiplies_out():
    # 2 layers of 4 x 3^2 + 2 x 3 x 5 = 66 weights, 2 x 7^2 x 3 for attention; 2 for a multiply-add.
    shape = EncoderConfig(10, 3, 2, 1, 5, 8)
    assert forward_flops(shape, 7) == 2 * 2 * (7 * 66 + 2 * 49 * 3)
    # Two terms of DeBERTa's: each token with 14 distances.
    far = dataclasses.replace(shape, distances=Distances(8, shared=False))
    assert forward_flops(far, 7) == 2 * 2 * (7 * 66 + 2 * 49 * 3 + 2 * 7 * 14 * 3)
    root = Path(__file__).parents[2]
    loaded = options.load(root / "configs" / "nq.yaml")
    planned = {stage.name: stage for stage in plan.stages(loaded, plan.Plan(machine="h100"))}
    joint = planned["joint"]
    assert joint.tokens == pytest.approx(1838 * 96 * (11.7 + 32 * (127.3 + 147.6)))
    assert joint.hours * 3600 == pytest.approx(joint.flops / (989e12 * 0.3))
    assert planned["encode"].tokens == pytest.approx(21_015_324 * 127.3)
    none = dataclasses.replace(loaded.lists, denoised=0.0, refresh=1000)
    other = dataclasses.replace(
        loaded, lists=none, evaluate=dataclasses.replace(loaded.evaluate, start=True)
    )
    stages = list(plan.stages(other, plan.Plan(machine="h100")))
    names = ["start", "warm-retriever", "encode", "warm-reranker", "mine", "encode again", "joint"]
    assert [stage.name for stage in stages] == [*names, "index", "evaluate"]  # 1838 steps: 2 rounds
    assert stages[4].flops == 0 < planned["mine"].flops  # nothing is scored
    assert stages[0].flops == pytest.approx(stages[2].flops + stages[-1].flops)
    floats = dataclasses.replace(loaded.index, dtype="float32")
    larger = {
        s.name: s
        for s in plan.stages(dataclasses.replace(loaded, index=floats), plan.Plan(machine="h100"))
    }
    assert loaded.index.dtype == "bfloat16"
    # MS MARCO's 8,841,823 vectors of 768 numbers: 13.6 GB, and 6.8 and 0.88 with a scale each.
    marco = options.load(root / "configs" / "msmarco.yaml")
    for dtype, size in (("bfloat16", 13.58e9), ("int8", 6.83e9), ("binary", 0.884e9)):
        stored = dataclasses.replace(marco, index=dataclasses.replace(marco.index, dtype=dtype))
        assert sizes_of(stored).passages * vector_bytes(stored) == pytest.approx(size, rel=1e-3)
    assert larger["mine"].memory - planned["mine"].memory == pytest.approx(2 * 21_015_324 * 768)
    narrow = list(plan.stages(loaded, plan.Plan(machine="h100", chunk=64)))[4]
    assert narrow.name == "joint"
    assert narrow.memory < joint.memory and narrow.flops == joint.flops


def test_a_plan_counts_pairs_by_the_re_ranker_and_no_mining_of_given_lists():
    marco = options.load(Path(__file__).parents[2] / "configs" / "msmarco.yaml")

    def planned(changes):
        stages = plan.stages(options.merged(marco, changes), plan.Plan(machine="h100", chunk=64))
        return {stage.name: stage for stage in stages}

    small = {"weights": MINILM}
    whole, mixed = planned({}), planned({"retriever": small})
    both = planned({"retriever": small, "reranker": small})
    for name in ("warm-reranker", "mine", "evaluate"):
        assert mixed[name].flops == whole[name].flops > 4 * both[name].flops
    assert mixed["warm-reranker"].memory == whole["warm-reranker"].memory
    assert mixed["encode"] == both["encode"] and mixed["encode"].flops < whole["encode"].flops / 4
    lists = {"source": "given", **mined_only(marco.lists)}
    given = planned({"lists": lists})
    names = ["warm-retriever", "warm-reranker", "joint", "index", "evaluate"]
    assert [*given] == names and given["warm-reranker"].hours < whole["warm-reranker"].hours


def test_a_plan_knows_what_backward_needs_of_a_layer():
    """By jax's own word, parameters left out: they are no text's."""
    shape, texts, length = BERT_BASE, 32, 128
    params = {"params": {"layers": jax.eval_shape(lambda: init_layers(jax.random.key(0), shape))}}
    layers = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), params)
    compute = Compute(jnp.bfloat16, attention="xla", dropout=0.1)

    def kept(layers, x, keys):
        run = partial(layer, How(shape, compute))
        whole = Tokens(*jnp.ones((2, texts, length), jnp.int32), jnp.full(texts, length))
        rows = one_a_row(whole)
        return jax.vjp(
            lambda layers, x: run(States(x, None), (layers, 0), rows, Places(), keys),
            layers["params"]["layers"],
            x,
        )[1]

    tokens = texts * length
    x = jax.ShapeDtypeStruct((tokens, shape.hidden_size), jnp.bfloat16)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), tokens))
    leaves = jax.tree.leaves(jax.eval_shape(kept, layers, x, keys))
    matrices = {x.shape for x in jax.tree.leaves(layers)}
    of_texts = [x for x in leaves if x.size >= tokens and x.shape not in matrices]
    found = sum(x.size * x.dtype.itemsize for x in of_texts if x.dtype != keys.dtype)
    assert plan.activations(shape, tokens, length) / shape.num_layers == pytest.approx(
        found, rel=0.05
    )


def test_a_plan_counts_the_slots_of_packed_rows():
    loaded = options.load(Path(__file__).parents[2] / "configs" / "nq.yaml")

    def planned(machine="v5e-1", **text):
        changed = dataclasses.replace(loaded, text=dataclasses.replace(loaded.text, **text))
        stages = plan.stages(changed, plan.Plan(machine=machine))
        return {stage.name: (stage.tokens, stage.flops) for stage in stages}

    def forward(tokens, width=256):  # rows of 256 slots, of which 95 % hold a token
        return min(1, tokens / (0.95 * width)) * forward_flops(BERT_BASE, width)

    # Backward is twice forward, and chunks of 256 run forward twice.
    assert planned()["joint"][1] == pytest.approx(
        4 * 1838 * 96 * (forward(11.7) + 32 * (forward(127.3) + forward(147.6)))
    )
    passages = 21_015_324
    assert planned()["encode"][1] == pytest.approx(passages * forward(127.3))
    longest = planned(passage_length=0)["encode"][1]  # as long as BERT reads: rows of 512
    assert longest == pytest.approx(passages * forward(127.3, 512))
    narrow = planned("h100")["encode"][1]  # a GPU's rows are no wider than a text may be
    assert narrow == pytest.approx(passages * forward(127.3, loaded.text.passage_length))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own
def test_latencies_are_of_every_side_and_number_of_clients(weights, collection, tmp_path, capsys):
    pytest.importorskip("sentence_transformers", reason="the extra `bench` brings it")
    pytest.importorskip("onnxruntime", reason="the extra `bench` brings it")
    args = ["--tasks", "serve", "--weights", str(weights), "--collection", str(collection)]
    args += ["--passage-length", "12", "--query-length", "10", "--pair-length", "20"]
    args += ["--passages", "10", "--lists", "4", "--length", "3"]
    args += ["--vectors-folder", str(tmp_path / "vectors")]
    figures = tmp_path / "figures.json"
    assert bench.main([*args, "--json", str(figures)]) == 0, capsys.readouterr().err
    rows = json.loads(figures.read_text())["latencies"]
    sides = ["rocketjax", "rocketjax, --budget-ms 300", *latency.RIVALS.values()]
    assert [(row["side"], row["clients"]) for row in rows] == [
        (side, clients) for side in sides for clients in latency.CLIENTS
    ]
    assert all(0 < row["median"] <= row["p99"] and row["rate"] > 0 for row in rows)


def test_every_client_asks_in_turn_and_is_timed():
    asked, lock = [], threading.Lock()

    def ask(query):
        with lock:
            asked.append(query)
        time.sleep(0.01)

    each, whole = latency.asked(ask, ["a", "b", "c"], 4)
    assert len(each) == 24 and len(asked) == 25  # one to warm up
    assert min(each) >= 0.01 and 0.06 <= whole < sum(each)
    found = latency.latency("ours", 4, [0.1] * 98 + [0.2, 0.3], 2.0)
    assert found.median == pytest.approx(100) and found.rate == 50
    assert 200 <= found.p99 < 300
