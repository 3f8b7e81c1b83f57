"""Every command on a finished run: what it prints and writes, and its one line for bad input."""

import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from on_disk import TOPICS
from option_texts import leaves, text_of
from option_texts import words as letters

from rocketjax import ablate, draw, encode, evaluate, export, mine, rerank, search, serve, train
from rocketjax.bench import __main__ as bench
from rocketjax.bench.plan import Plan
from rocketjax.bench.scale import Scale
from rocketjax.cli import command as cli
from rocketjax.cli.command import console
from rocketjax.config.options import parse
from rocketjax.config.schema import (
    ComputeConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    IndexConfig,
    ListConfig,
    OptimizerConfig,
    RerankerConfig,
    RetrieverConfig,
    StageConfig,
    TextConfig,
)
from rocketjax.data.collection import hold_out
from rocketjax.data.lists import read_lists
from rocketjax.data.load import load_collection
from rocketjax.data.runs import read_run, write_run
from rocketjax.inference.folder import open_reranker, open_retriever
from rocketjax.inference.start import pretrained_retriever
from rocketjax.pipeline import run as pipeline
from rocketjax.retrieval import ranking
from rocketjax.retrieval.exact import ExactIndex
from rocketjax.retrieval.load import load, open_corpus
from rocketjax.retrieval.scann import ScannIndex
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unwatched

COMMANDS = (  # rocketjax.train's are in tests/config/test_config.py
    encode.Encode,
    mine.Mine,
    search.Search,
    rerank.Rerank,
    evaluate.Evaluate,
    draw.Draw,
    export.Export,
    serve.Serve,
    ablate.Ablate,
    bench.Bench,
    Plan,
    Scale,
)


@pytest.fixture(scope="module")
def run(weights, collection, tmp_path_factory):
    optimizer = OptimizerConfig(retriever_lr=3e-3, reranker_lr=3e-3)
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = Config(
        run_dir=str(folder),
        data=DataConfig(str(collection), max_eval_queries=0),
        text=TextConfig(query_length=10, passage_length=10, pair_length=18),
        retriever=RetrieverConfig(str(weights)),
        reranker=RerankerConfig(str(weights)),
        index=IndexConfig(shard=25),
        lists=ListConfig(length=4, top_n=20, denoised=0.0),
        reranker_warmup=StageConfig(steps=0, batch=8),
        joint=StageConfig(steps=12, batch=8, optimizer=optimizer),
        evaluate=EvaluateConfig(20, 10, start=False, every=5),
    )
    pipeline.run(config, print, unwatched)
    return folder


def test_a_start_that_is_not_judged_leaves_no_picture_out(run, weights, collection):
    """What it looks at on the way is then what the retriever that mines ranks first."""
    rows = [json.loads(line) for line in (run / "judged.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 5, 10, 12]
    loaded, text = load_collection(str(collection)), TextConfig(10, 10, 18)
    start = pretrained_retriever(RetrieverConfig(str(weights)), text, ComputeConfig())
    passages = start.encode_passage(
        *zip(*[(p.text, p.title) for p in loaded.passages], strict=True)
    )
    pool = read_run(run / "scores" / "pool.trec")
    assert len(pool) == 20  # all there are
    for query, found in pool.items():
        scores = passages @ start.encode_query([loaded.splits["dev"].queries[query]])[0]
        wanted = np.sort(scores)[::-1][:10]
        np.testing.assert_allclose([score for _, score in found], wanted, rtol=1e-5)
    page = (run / "report.html").read_text()
    for title in ("Held-out MRR@10 during training", "Scores of the retriever"):
        assert title in page
    assert "Not drawn: what denoising removed (the re-ranker scored no candidate)." in page


def test_a_run_whose_vectors_are_gone_goes_on_without_looks(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(folder / "warmup" / "index")
    again = ["--config", str(folder / "config.yaml"), "--run-dir", str(folder), "--from", "joint"]
    again += ["--stages", "joint"]
    assert train.main(again) == 2
    err = words(capsys.readouterr().err)
    assert f"{folder / 'warmup' / 'index'}: gone" in err
    assert "turn that evaluation off: --evaluate.every 0" in err
    assert train.main([*again, "--evaluate.every", "0"]) == 0
    for name in ("retriever", "reranker"):
        first, second = (path / name / "model.safetensors" for path in (run, folder))
        assert first.read_bytes() == second.read_bytes()  # looking trains nothing


def words(out):
    return re.sub(r"\s+", " ", out)


@pytest.mark.parametrize("options", COMMANDS, ids=lambda options: options.__name__)
def test_help_says_what_every_option_means_and_gives_an_example(options, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    command = sys.modules[options.__module__]
    with pytest.raises(SystemExit) as left:
        command.main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    said = letters(shown)
    assert letters(f"python -m {command.__name__.removesuffix('.__main__')}") in said
    for cls, field, option in leaves(options):
        text = text_of(cls, field)
        assert text, f"{option} has no docstring"
        assert letters(text) in said, option
        named = re.search(rf"--{option.replace('_', '-')}\b", shown)
        assert named or (options is search.Search and field == "query"), option  # it has no name


@pytest.mark.parametrize("command", ["search", pytest.param("train", marks=pytest.mark.slow)])
def test_help_that_nobody_reads_to_its_end_is_no_error(command):
    unread, output = os.pipe()
    os.close(unread)
    asked = [sys.executable, "-m", f"rocketjax.{command}", "--help"]
    ended = subprocess.run(asked, stdout=output, stderr=subprocess.PIPE, check=False)
    os.close(output)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_too_little_memory_is_one_line_with_the_remedy(capsys):
    def command():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory, 34 GB.\nBFC: more")

    assert cli.run_command(command) == 2
    said = words(capsys.readouterr().err)
    assert "memory is not enough (RESOURCE_EXHAUSTED: Out of memory, 34 GB.)" in said
    assert "take a smaller --compute.chunk" in said and "BFC" not in said


def test_the_example_of_train_can_be_copied(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        train.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("Example: "))
    assert lines[place - 2].endswith("a second --config reads another over it.")
    assert lines[place - 1] == lines[place + 1] == ""
    _, args = lines[place].split("python -m rocketjax.train")
    config = parse(shlex.split(args), "rocketjax.train", train.DESCRIPTION)
    assert (config.name, config.joint.steps) == ("mine", 500)


def test_encode_makes_an_index_that_search_takes(run, collection, tmp_path, capsys):
    out = tmp_path / "index"
    args = ["--model", str(run), "--collection", str(collection), "--output", str(out)]
    args += ["--index.shard", "16", "--index.dtype", "float16"]
    shared = [*args, "--workers", "2"]
    assert encode.main([*shared, "--worker", "1"]) == 0
    assert "others are missing" in capsys.readouterr().out
    assert encode.main([*shared, "--worker", "0"]) == 0
    assert "60 vectors of 32, float16" in capsys.readouterr().out
    assert encode.main(args) == 0  # again: nothing to do
    search_args = ["--model", str(run), "--index", str(out), "--top-k", "3", TOPICS[2]]
    assert search.main(search_args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["1", "2", "3"]
    assert encode.main([*args, "--queries", "devv"]) == 2
    assert "has no split 'devv'; it has dev, train" in words(capsys.readouterr().err)
    assert encode.main([*shared, "--worker", "2"]) == 2
    assert "--worker is 2: with 2 workers, below it" in words(capsys.readouterr().err)


def test_the_folder_that_is_given_decides_who_searches_it(run, collection, tmp_path, capsys):
    pytest.importorskip("scann")
    exact, other = shutil.copytree(run, tmp_path / "exact"), tmp_path / "other"
    config = (run / "config.yaml").read_text()
    config = config.replace("target_recall: 0.99", "target_recall: 0.95")  # unread, as of before
    assert "0.95" in config
    (exact / "config.yaml").write_text(config.replace("kind: auto", "kind: exact"))
    args = ["--model", str(run), "--collection", str(collection), "--output", str(other)]
    assert encode.main([*args, "--index.kind", "scann", "--queries", "dev"]) == 0
    assert "on 20 queries of dev" in words(capsys.readouterr().out)
    plain = tmp_path / "plain"
    assert encode.main([*args[:-1], str(plain), "--index.kind", "exact"]) == 0
    retriever = open_retriever(exact)
    for folder, kind in ((other, ScannIndex), (plain, ExactIndex), ("", ExactIndex)):
        loaded = load_collection(str(collection))
        assert isinstance(open_corpus(exact, retriever, loaded, str(folder)).index, kind)
    for folder, who in ((other, "ScaNN searches it"), (plain, "exact search; no ScaNN index")):
        capsys.readouterr()
        assert search.main(["--model", str(exact), "--index", str(folder), TOPICS[0]]) == 0
        assert f"{folder}: {who}" in words(capsys.readouterr().out)


@pytest.mark.parametrize("depth", [0, 2])
def test_a_file_of_queries_is_searched_and_written_in_parts(
    run, searches, tmp_path, monkeypatch, depth
):
    sizes, search_vectors = [], ranking.search_vectors

    def noted(*args):
        sizes.extend(path.stat().st_size for path in tmp_path.glob(".out.trec.*"))
        return search_vectors(*args)

    monkeypatch.setattr(ranking, "search_vectors", noted)
    queries = {f"q{i}": f"{TOPICS[i % 5]} {TOPICS[i % 3]}" for i in range(300)}
    (tmp_path / "q.tsv").write_text("".join(f"{q}\t{text}\n" for q, text in queries.items()))
    out = tmp_path / "out.trec"
    args = ["--model", str(run), "--queries", str(tmp_path / "q.tsv"), "--output", str(out)]
    assert search.main([*args, "--top-k", "20", "--depth", str(depth)]) == 0
    assert len(searches) == 6 and max(searches) < 150 and sizes[-1] > 0.3 * out.stat().st_size
    assert out.stat().st_size > sizes[-1] and not [*tmp_path.glob(".out.trec.*")]
    want = ranking.retrieve(open_retriever(run), load(run).corpus.index, queries, 20, unwatched)
    if depth:
        texts = load(run).corpus.passages
        want = ranking.rerank(open_reranker(run), want, queries, texts, depth, unwatched)
    write_run(tmp_path / "want.trec", want, "rocketjax", depth or None)
    assert out.read_bytes() == (tmp_path / "want.trec").read_bytes()


def test_search_shows_both_scores(run, capsys, monkeypatch):
    assert search.main(["--model", str(run), "--top-k", "4", "--depth", "2", TOPICS[0]]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["rank", "re-ranker", "retriever", "passage"]
    assert len(rows) == 4 and [len(row.split()) for row in rows] == [10, 10, 9, 9]
    asked = iter(["cat purr", "dog bark", ""])
    monkeypatch.setattr(console, "input", lambda _: next(asked))
    assert search.main(["--model", str(run), "--top-k", "2"]) == 0
    assert capsys.readouterr().out.count("rank  re-ranker") == 2
    monkeypatch.undo()
    monkeypatch.setattr("sys.stdin", io.StringIO("cat purr\n"))  # piped in, and at its end
    assert search.main(["--model", str(run), "--top-k", "2"]) == 0
    assert capsys.readouterr().out.count("rank  re-ranker") == 1


def test_a_file_of_queries_becomes_a_run_that_can_be_re_ranked_and_judged(
    run, collection, tmp_path, capsys
):
    queries = tmp_path / "dev.tsv"
    rows = [json.loads(x) for x in (collection / "queries.jsonl").read_text().splitlines()]
    queries.write_text("".join(f"{r['_id']}\t{r['text']}\n" for r in rows[40:]))
    plain, both, again = (str(tmp_path / f"{x}.trec") for x in ("plain", "both", "again"))
    args = ["--model", str(run), "--queries", str(queries), "--top-k", "20"]
    assert search.main([*args, "--output", plain, "--depth", "0"]) == 0
    assert search.main([*args, "--output", both, "--depth", "10"]) == 0
    args = ["--model", str(run), "--collection", str(collection), "--run", plain]
    assert rerank.main([*args, "--queries", "dev", "--output", again, "--depth", "10"]) == 0
    one, other = read_run(tmp_path / "both.trec"), read_run(tmp_path / "again.trec")
    assert {q: [p for p, _ in r] for q, r in one.items()} == {
        q: [p for p, _ in r] for q, r in other.items()
    }
    # The run's own evaluation wrote the same.
    own = read_run(run / "runs" / "reranker.trec")
    assert {q: r[0][0] for q, r in own.items()} == {q: r[0][0] for q, r in one.items()}
    capsys.readouterr()
    folder = str(tmp_path / "values")
    args = ["--collection", str(collection), "--runs", plain, both, "--per-query", folder]
    assert evaluate.main(args) == 0
    printed = words(capsys.readouterr().out)
    assert "MRR@10" in printed and "recall@20" in printed and "recall@50" not in printed
    assert {p.name for p in (tmp_path / "values").iterdir()} == {
        "plain.per_query.tsv",
        "both.per_query.tsv",
    }
    assert len((tmp_path / "values" / "plain.per_query.tsv").read_text().splitlines()) == 21


def test_a_query_that_is_a_passage_is_not_found_by_itself(run, collection, tmp_path, capsys):
    """As BEIR does for ArguAna: neither in a file of rankings nor where a model is judged."""
    own = shutil.copytree(collection, tmp_path / "own")
    rows = [json.loads(x) for x in (own / "corpus.jsonl").read_text().splitlines()]
    queries = "".join(json.dumps({"_id": r["_id"], "text": r["text"]}) + "\n" for r in rows[:8])
    (own / "queries.jsonl").write_text(queries)
    for path in (own / "qrels").iterdir():
        path.unlink()
    counters = "".join(f"p{i}\tp{i + 10}\t1\n" for i in range(8))
    (own / "qrels" / "dev.tsv").write_text(f"query-id\tcorpus-id\tscore\n{counters}")
    found = {}
    for name, more in (("kept", []), ("skipped", ["--skip-own"])):
        args = ["--model", str(run), "--queries", str(own / "queries.jsonl"), "--depth", "10"]
        assert search.main([*args, *more, "--output", str(tmp_path / name), "--top-k", "12"]) == 0
        found[name] = read_run(tmp_path / name)
        said = words(capsys.readouterr().out)
        assert ("8 of 8 queries have the id of a passage" in said) == (name == "kept")
    # A passage of equal text is as close, and there are few words.
    assert any(query in {p for p, _ in ranked} for query, ranked in found["kept"].items())
    for query, ranked in found["skipped"].items():
        assert query not in {pid for pid, _ in ranked} and len(ranked) == 12
    args = ["--collection", str(own), "--model", str(run), "--per-query", str(tmp_path / "values")]
    args += ["--evaluate.top-k", "12", "--evaluate.rerank-depth", "10", "--evaluate.skip-own"]
    assert evaluate.main(args) == 0
    out = words(capsys.readouterr().out)
    assert "this passage is left out" in out and "without the query's own passage" in out
    values = (tmp_path / "values" / "reranker.per_query.tsv").read_text().splitlines()
    ranks = {
        q: [p for p, _ in ranked].index(f"p{int(q[1:]) + 10}") + 1
        for q, ranked in found["skipped"].items()
        if f"p{int(q[1:]) + 10}" in {p for p, _ in ranked[:10]}
    }
    for line in values[1:]:
        query, mrr = line.split("\t")[:2]
        assert float(mrr) == pytest.approx(1 / ranks[query] if query in ranks else 0, rel=1e-5)


def test_evaluate_a_model_gives_what_its_run_reported(run, collection, capsys):
    args = ["--collection", str(collection), "--model", str(run)]
    assert evaluate.main([*args, "--evaluate.top-k", "20", "--evaluate.rerank-depth", "10"]) == 0
    out = words(capsys.readouterr().out)
    for row in json.loads((run / "report.json").read_text())["rows"]:
        if row["model"] != "oracle" and row["measure"] in ("MRR@10", "recall@20"):
            assert f"{row['after']:.4f}" in out
    assert "oracle" in out


def test_what_a_training_held_out_is_judged_again_and_not_mined_for(
    run, collection, tmp_path, capsys
):
    _, out = hold_out(load_collection(str(collection)).split("train"), 0.3)
    args = ["--collection", str(collection), "--model", str(run), "--split", "train"]
    args += ["--evaluate.top-k", "20", "--evaluate.rerank-depth", "10"]
    assert evaluate.main([*args, "--hold-out", "0.3"]) == 0
    assert f"{len(out.queries)} queries" in words(capsys.readouterr().out)
    args = ["--model", str(run), "--output", str(tmp_path / "lists"), "--hold-out", "0.3"]
    args += ["--lists.length", "4", "--lists.top-n", "20", "--lists.calibration", "sigmoid"]
    assert mine.main(args) == 0
    mined = {item.query for item in read_lists(tmp_path / "lists" / "lists.jsonl")}
    assert mined and not mined & out.queries.keys()


def test_evaluate_puts_bm25_and_other_runs_beside_a_model(run, collection, tmp_path, capsys):
    if missing := [x for x in ("bm25s", "Stemmer") if not importlib.util.find_spec(x)]:
        pytest.skip(f"{', '.join(missing)} not installed; pip install -e '.[ablation]'")
    own, folder = run / "runs" / "retriever.trec", tmp_path / "values"
    other = shutil.copy(own, tmp_path / "other.trec")
    args = ["--collection", str(collection), "--model", str(run), "--bm25"]
    args += ["--evaluate.top-k", "20", "--evaluate.rerank-depth", "10", "--per-query", str(folder)]
    assert evaluate.main([*args, "--runs", str(own)]) == 2
    said = words(capsys.readouterr().err)
    assert "would both be retriever.per_query.tsv; rename one" in said and not folder.exists()
    assert evaluate.main([*args, "--runs", str(other)]) == 0
    assert "oracle" in words(capsys.readouterr().out)
    values = {p.name.split(".")[0]: p.read_text() for p in folder.iterdir()}
    assert set(values) == {"retriever", "reranker", "bm25", "other", "oracle"}
    assert values["other"] == values["retriever"] != values["bm25"]


def test_a_measure_deeper_than_a_run_has_no_value(collection, tmp_path, capsys):
    for name, depth in (("short", 30), ("long", 55)):
        rows = (f"q45 Q0 p{i} {i + 1} {-i} x\n" for i in range(depth))
        (tmp_path / f"{name}.trec").write_text("".join(rows))
    short, long = (str(tmp_path / f"{name}.trec") for name in ("short", "long"))
    for runs in ((short, long), (long, short)):
        assert evaluate.main(["--collection", str(collection), "--runs", *runs]) == 0
        rows = [re.split(r"[│|]", line) for line in capsys.readouterr().out.splitlines()]
        cells = {
            row[1].strip(): [cell.strip() for cell in row[2:4]] for row in rows if len(row) > 3
        }
        assert [bool(cell) for cell in cells["recall@50"]] == [run == long for run in runs]
        assert all(cells["recall@20"])


def test_mine_writes_lists_and_goes_on_where_it_was(run, collection, tmp_path, capsys):
    out = tmp_path / "lists"
    args = ["--model", str(run), "--output", str(out), "--max-queries", "12"]
    args += ["--lists.length", "4", "--lists.top-n", "20", "--lists.calibration", "sigmoid"]
    assert mine.main(args) == 0
    printed = capsys.readouterr().out
    lists = read_lists(out / "lists.jsonl")
    assert f"{len(lists)} lists in" in printed and "12 queries (0 unlabelled" in printed
    assert json.loads((out / "report.json").read_text())["scored"] == 12 * 20
    before = (out / "lists.jsonl").read_bytes()
    stamp = (out / "candidates-00000.jsonl").stat().st_mtime_ns
    assert mine.main(args) == 0
    assert (out / "lists.jsonl").read_bytes() == before
    assert (out / "candidates-00000.jsonl").stat().st_mtime_ns == stamp
    assert mine.main([*args, "--seed", "2"]) == 2
    assert "holds lists mined with other seed" in words(capsys.readouterr().err)


def test_lists_do_not_depend_on_the_number_of_devices(run, tmp_path, monkeypatch):
    assert jax.device_count() > 1
    args = ["--model", str(run), "--lists.length", "4", "--lists.top-n", "20"]
    args += ["--lists.calibration", "sigmoid", "--lists.low", "0.5"]
    assert mine.main([*args, "--output", str(tmp_path / "all")]) == 0
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)
    monkeypatch.setattr(jax, "devices", lambda: one)
    assert mine.main([*args, "--output", str(tmp_path / "one")]) == 0
    by_all, by_one = ((tmp_path / name / "lists.jsonl").read_bytes() for name in ("all", "one"))
    assert by_all == by_one


def test_an_index_of_another_model_is_refused_by_every_command(run, weights, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    path = other / "retriever" / "model.safetensors"
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    name = "embeddings.word_embeddings.weight"
    save_file(tensors | {name: tensors[name] + np.float32(0.01)}, path)
    assert search.main(["--model", str(other), "cat"]) == 2
    err = words(capsys.readouterr().err)
    assert re.search(r"made of model \S+ \(hash \w+\), but this is model \S+ \(hash \w+\)", err)
    assert mine.main(["--model", str(other), "--output", str(tmp_path / "lists")]) == 2
    assert "encode the corpus again" in words(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("command", "args", "message"),
    [
        (search, ["--model", "runs/nowhere", "cat"], "runs/nowhere: no such folder (of a"),
        (
            search,
            ["--model", "RUN", "--top-k", "61", "cat"],
            "--top-k is 61, but the corpus holds 60",
        ),
        (search, ["--model", "RUN", "--queries", "q.tsv"], "--queries and --output go together"),
        (search, ["--model", "RUN", "--top-k", "0", "cat"], "--top-k: Input should be greater"),
        (search, ["--model", "RUN", "--collection", "nowhere", "cat"], "is not a file or folder"),
        (evaluate, ["--collection", "TOPICS"], "nothing to judge; give --model, --runs"),
        (
            evaluate,
            ["--collection", "TOPICS", "--model", "RUN", "--evaluate.rerank-depth", "500"],
            "--evaluate.rerank-depth: at most 100",
        ),
        (mine, ["--model", "RUN", "--output", "o", "--lists.length", "0"], "--lists.length: Input"),
        (
            encode,
            ["--model", "RUN", "--collection", "demo", "--output", "o", "--index.shard", "-1"],
            "--index.shard: Input should be greater than or equal to 0, got -1",
        ),
        (
            encode,
            "--model m --collection c --output o --index.kind exact --queries dev",
            "--queries: recall is measured of ScaNN and of int8 and binary vectors",
        ),
        (
            encode,
            "--model m --collection c --output o --text.pair-length 20",
            "--text.pair-length: only a re-ranker reads it, and none is opened",
        ),
        (search, "--queries q.tsv --output o cat", "--queries: there is a query beside it"),
        (search, ["--skip-own", "cat"], "--skip-own: it is of a file's queries"),
        (search, "--reranker r --depth 0 cat", "--reranker: with --depth 0 nothing is"),
        (evaluate, "--collection c --runs r --index i", "--index: only --model reads it"),
        (evaluate, "--collection c --runs r --compute.batch 4", "--compute.batch: only --model"),
        (evaluate, "--collection c --runs r --evaluate.top-k 6", "only --model or --bm25 reads it"),
        (bench, ["--collection", "nowhere", "--json", "FILE/x.json"], "FILE/x.json: cannot be"),
        (serve, ["--limits.waiting", "0"], "--limits.waiting: Input should be greater than or"),
        (
            rerank,
            [
                "--model",
                "m",
                "--run",
                "n",
                "--collection",
                "c",
                "--queries",
                "q",
                "--output",
                "FILE/x.trec",
            ],
            "FILE/x.trec: cannot be written: ",
        ),
        (
            rerank,
            "--model m --run n --collection c --queries q --output o --text.title joined",
            "--text.title: only a retriever reads it, and none is opened",
        ),
        (evaluate, ["--collection", "TOPICS", "--runs", "no.trec"], "no.trec: no such file"),
        (evaluate, ["--collection", "TOPICS", "--split", "x", "--runs", "n"], "no split 'x'"),
        (mine, ["--model", "RUN", "--split", "x", "--output", "o"], "no split 'x'; it has dev"),
        (
            mine,
            ["--model", "RUN", "--output", "o", "--lists.length", "9", "--lists.top-n", "7"],
            "--lists.length: at most 8 with the other options, got 9",
        ),
        (
            mine,
            ["--model", "RUN", "--output", "o", "--lists.source", "given"],
            "--lists.refresh, --lists.after, --lists.easy: for training; leave them out",
        ),
        (
            mine,
            ["--model", "RUN", "--output", "o", "--lists.easy", "0.5"],
            "--lists.refresh, --lists.after, --lists.easy: for training; leave them out",
        ),
        (
            mine,
            ["--model", "RUN", "--output", "o", "--lists.after", "5"],
            "--lists.refresh, --lists.after, --lists.easy: for training; leave them out",
        ),
        (train, ["--from", "joint", "--run-dir", "NEW"], "no run here to resume with"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    run, collection, tmp_path, capsys, monkeypatch, command, args, message
):
    places = {"RUN": run, "TOPICS": collection, "NEW": tmp_path / "new"}
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    args = args.split() if isinstance(args, str) else args
    assert command.main([str(places.get(arg, arg)) for arg in args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in words(err) and "Traceback" not in err


def test_bad_rows_are_left_out_where_asked(run, collection, tmp_path, capsys):
    bad = shutil.copytree(collection, tmp_path / "bad")
    with (bad / "queries.jsonl").open("a") as file:
        file.write("{\n")
    some = ["--output", str(tmp_path / "lists"), "--max-queries", "4", "--lists.denoised", "0"]
    for command, more in ((mine, some), (evaluate, ["--evaluate.top-k", "50"]), (search, ["cat"])):
        args = ["--model", str(run), "--collection", str(bad), *more]
        assert command.main(args) == 2
        assert "queries.jsonl:61: not JSON" in words(capsys.readouterr().err)
        assert command.main([*args, "--on-bad-rows", "skip"]) == 0
        assert "left out 1 bad rows" in words(capsys.readouterr().out)


def test_answers_are_not_sought_in_passages_that_are_not_there(collection, tmp_path, capsys):
    answered = shutil.copytree(collection, tmp_path / "answered")
    (answered / "answers.jsonl").write_text('{"_id": "q45", "answers": ["cat"]}\n')
    (tmp_path / "run.trec").write_text("q45 Q0 p99 1 1 x\nq45 Q0 p1 2 0 x\n")
    args = ["--runs", str(tmp_path / "run.trec"), "--collection"]
    assert evaluate.main([*args, str(answered)]) == 2
    said = "passage 'p99' of query 'q45' is not in answered, so that no answer can be sought"
    assert said in words(capsys.readouterr().err)
    assert evaluate.main([*args, str(collection)]) == 0  # judgements know it as not relevant


def test_rerank_refuses_strangers(run, collection, tmp_path, capsys):
    args = ["--model", str(run), "--collection", str(collection), "--queries", "dev"]
    for line, message in (
        ("q99 Q0 p1 1 1 x", "query 'q99' is not in dev"),
        ("q45 Q0 p99 1 1 x", "passage 'p99' of query 'q45' is not in topics"),
    ):
        (tmp_path / "run.trec").write_text(line + "\n")
        paths = ["--run", str(tmp_path / "run.trec"), "--output", str(tmp_path / "out.trec")]
        assert rerank.main(args + paths) == 2
        assert message in words(capsys.readouterr().err)
    assert not (tmp_path / "out.trec").exists()


@pytest.fixture
def untold():
    """jax keeps no programs; the other tests' are kept (conftest.keep_programs)."""
    told, update = jax.config.jax_compilation_cache_dir, jax.config.update
    update("jax_compilation_cache_dir", None)
    yield
    update("jax_compilation_cache_dir", told)


def test_programs_are_kept_between_starts(untold, monkeypatch, tmp_path):
    kept = {}
    monkeypatch.setattr(jax.config, "update", kept.__setitem__)
    monkeypatch.setenv("ROCKETJAX_CACHE", str(tmp_path))
    cli.keep_programs()
    folder = Path(kept["jax_compilation_cache_dir"])
    assert folder.parent == tmp_path / "programs"  # its name is the processor's
    assert kept["jax_compilation_cache_max_size"] == cli.PROGRAMS_OF_CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    cli.keep_programs()
    assert kept["jax_compilation_cache_dir"] == str(tmp_path / "programs")


def test_a_run_is_searched_wherever_its_collection_and_vectors_lie_now(run, collection, tmp_path):
    moved = shutil.copytree(run, tmp_path / "moved")
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace(str(collection), "/nowhere/topics"))
    shutil.move(moved / "index", tmp_path / "vectors")
    with pytest.raises(InputError, match=r"no index/ here, so .* cannot be searched; give index="):
        load(moved, collection=str(collection))
    with pytest.raises(InputError, match="no index to search"):
        load(moved).search("cat")
    model = load(moved, index=str(tmp_path / "vectors"))
    with pytest.raises(InputError, match=r"/nowhere/topics.*config\.yaml names it.*collection="):
        model.search("cat")
    model = load(moved, collection=str(collection), index=str(tmp_path / "vectors"))
    assert model.search("cat", 3, 5) == load(run).search("cat", 3, 5)
