"""What judgements leave open: grades, copies, a query's own passage, ids that are not there."""

import json
import re

import ir_measures
import pytest

from rocketjax import evaluate
from rocketjax.config.schema import Depths
from rocketjax.data.load import load_collection
from rocketjax.data.runs import read_run
from rocketjax.evaluation.judged import as_judged, check_run, copies_of
from rocketjax.evaluation.metrics import mean, per_query
from rocketjax.evaluation.results import measure
from rocketjax.retrieval.ranking import Runs, without_own
from rocketjax.runtime.errors import InputError

# Arguments and their counters: a query is a passage of the corpus, and only its counter answers it.
PASSAGES = {
    "a-pro": "Cats\u00a0purr.",
    "a-con": "Cats bite.",
    "b-pro": "Dogs bark.",
    "b-con": "Dogs  sleep.",
    "copy": "Cats\u00a0bite. ",
    "c": "Eels are wet.",
}
QUERIES = {"a-pro": "Cats purr.", "b-pro": "Dogs bark.", "x": "which are wet?"}
QRELS = {"a-pro": {"a-con": 2, "c": 1}, "b-pro": {"b-con": 1}, "x": {"c": 3, "b-con": 0}}
RUN = {"a-pro": ["a-pro", "a-con", "c"], "b-pro": ["b-pro", "b-con", "c"], "x": ["b-con", "c"]}


def write(folder, qrels=QRELS, passages=PASSAGES):
    (folder / "qrels").mkdir()
    for name, texts in (("corpus", passages), ("queries", QUERIES)):
        rows = (json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items())
        (folder / f"{name}.jsonl").write_text("".join(rows))
    rows = [
        f"{q}\t{pid}\t{grade}\n" for q, grades in qrels.items() for pid, grade in grades.items()
    ]
    (folder / "qrels/test.tsv").write_text("".join(["query-id\tcorpus-id\tscore\n", *rows]))
    return folder


def write_run(path, run=RUN):
    rows = [
        f"{q} Q0 {p} {i} {-i} x\n" for q, ranked in run.items() for i, p in enumerate(ranked, 1)
    ]
    path.write_text("".join(rows))
    return path


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path)


def judged(folder, **options):
    """The split as it counts, the collection, and what was said."""
    collection, said = load_collection(str(folder)), []
    return as_judged(collection.split("test"), collection, Depths(**options), said.append), said


def shown(capsys, *args):
    """Measures that the command prints, by name, and what it says above the table."""
    assert evaluate.main([*args]) == 0
    out = capsys.readouterr().out
    cells = [re.split(r"[│|]", line) for line in out.splitlines()]
    values = {row[1].strip(): float(row[2]) for row in cells if len(row) > 3}
    return values, " ".join(out.split())


@pytest.mark.parametrize("relevant", [1, 2, 3, 4])
def test_grades_count_from_the_threshold_as_ir_measures_has_it(relevant):
    values = per_query(QRELS, RUN, relevant=relevant)
    run = {q: {pid: -float(i) for i, pid in enumerate(ranked)} for q, ranked in RUN.items()}
    wanted = {
        "MRR@10": ir_measures.RR(rel=relevant) @ 10,
        "recall@5": ir_measures.R(rel=relevant) @ 5,
        "success@5": ir_measures.Success(rel=relevant) @ 5,
        "nDCG@10": ir_measures.nDCG @ 10,
    }
    for name, live_measure in wanted.items():
        live = {m.query_id: m.value for m in ir_measures.iter_calc([live_measure], QRELS, run)}
        assert values[name] == pytest.approx(live)
    first = {1: (1 / 2 + 1 / 2 + 1 / 2) / 3, 2: (1 / 2 + 1 / 2) / 3, 3: 1 / 6, 4: 0}
    assert mean(values["MRR@10"]) == pytest.approx(first[relevant])


def test_the_threshold_is_an_option_and_is_shown(folder, capsys):
    run = str(write_run(folder / "a.trec"))
    args = ["--collection", str(folder), "--split", "test", "--runs", run]
    values, said = shown(capsys, *args, "--evaluate.relevant", "2")
    assert values["MRR@10"] == pytest.approx(1 / 3, abs=1e-4)
    assert "3 queries, relevant from grade 2" in said.replace("│", "")
    assert "1 of 3 judged queries have no relevant passage (of grade 2 or more)" in said
    assert shown(capsys, *args)[0]["MRR@10"] == 0.5


def test_both_models_and_the_oracle_are_judged_from_the_threshold(folder):
    found = {q: [(pid, -float(i)) for i, pid in enumerate(ranked)] for q, ranked in RUN.items()}
    split, collection = load_collection(str(folder)).split("test"), load_collection(str(folder))
    depths = Depths(top_k=5, rerank_depth=2, relevant=2)
    values = measure(split, collection, Runs(found, found), depths)
    assert values["retriever"] == values["reranker"] == per_query(QRELS, RUN, 5, relevant=2)
    assert values["oracle"]["MRR@10"] == {"a-pro": 1.0, "b-pro": 0.0, "x": 1.0}


def test_judgements_without_a_relevant_passage_are_refused(folder):
    with pytest.raises(InputError, match=r"none of 3 judged queries has a relevant .*grade 4"):
        judged(folder, relevant=4)


def test_a_querys_own_passage_is_left_out_as_beir_does(folder, capsys):
    run = str(write_run(folder / "a.trec"))
    args = ["--collection", str(folder), "--split", "test", "--runs", run]
    before, said = shown(capsys, *args)
    assert "2 of 3 queries have the id of a passage (2 have its text, too)" in said
    assert before["MRR@10"] == 0.5
    after, said = shown(capsys, *args, "--evaluate.skip-own")
    assert "this passage is left out" in said
    # BEIR's rule: results.pop(query id), then the measures.
    popped = {q: [pid for pid in ranked if pid != q] for q, ranked in RUN.items()}
    live = per_query(QRELS, popped)
    for name in ("MRR@10", "nDCG@10"):
        assert after[name] == pytest.approx(mean(live[name]), abs=1e-4)
    assert after["MRR@10"] == pytest.approx((1 + 1 + 1 / 2) / 3, abs=1e-4)


def test_without_its_own_passage_a_ranking_is_as_long_as_asked():
    assert without_own("q", [("a", 3.0), ("q", 2.0), ("b", 1.0)], 2) == [("a", 3.0), ("b", 1.0)]
    assert without_own("q", [("b", 3.0), ("c", 2.0), ("q", 1.0)], 2) == [("b", 3.0), ("c", 2.0)]


def test_ids_that_coincide_by_chance_are_told_from_queries_that_are_passages(folder):
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": q, "text": f"{i}?"}) + "\n" for i, q in enumerate(QUERIES))
    )
    _, said = judged(folder)
    assert "2 of 3 queries have the id of a passage (0 have its text, too)" in said[0]


def test_copies_of_relevant_passages_are_counted_and_count_if_asked(folder):
    split, said = judged(folder)
    assert split.qrels == QRELS
    assert "1 copies of relevant passages, under other ids, do not count" in said[-1]
    split, said = judged(folder, copies=True)
    assert split.qrels == {**QRELS, "a-pro": {"a-con": 2, "c": 1, "copy": 2}}
    assert said[-1].endswith("count as relevant")
    run = {**RUN, "a-pro": ["copy", "a-con", "c"]}
    assert per_query(QRELS, run)["MRR@10"]["a-pro"] == 0.5
    assert per_query(split.qrels, run)["nDCG@10"]["a-pro"] == pytest.approx(1.0)


def test_a_copy_keeps_its_own_grade_and_takes_the_best_of_its_originals(tmp_path):
    passages = {**PASSAGES, "twin": "Cats bite.", "e1": "Eels", "e2": "Eels"}
    qrels = {"a-pro": {"a-con": 1, "twin": 3, "e1": 2, "e2": 0}}
    split, _ = judged(write(tmp_path, qrels, passages), copies=True)
    assert split.qrels == {"a-pro": {"a-con": 1, "twin": 3, "e1": 2, "e2": 0, "copy": 3}}
    collection = load_collection(str(tmp_path))
    found = copies_of(collection.split("test"), collection)
    assert found == {"a-con": ["copy", "twin"], "twin": ["a-con", "copy"], "e1": ["e2"]}


def test_a_run_of_other_ids_is_refused_or_said(folder):
    collection = load_collection(str(folder))

    def check(run):
        said = []
        path = write_run(folder / "a.trec", run)
        check_run(str(path), read_run(path), collection.split("test"), collection, said.append)
        return said

    assert check(RUN) == []
    with pytest.raises(InputError, match=r"a\.trec: none of its 1 queries .*'1'.*'a-pro'"):
        check({"1": ["a-con"]})
    with pytest.raises(InputError, match=r"none of its passages is in .*\(the first is 'd1'\)"):
        check({"x": ["d1", "d2"]})
    queries, others, passages = check({"x": ["c", "d1"], "y": ["c"]})
    assert "2 of 3 judged queries are not in it" in queries
    assert "1 of its 2 queries are not judged" in others
    assert "1 of 2 passages ranked up to 10 are not in" in passages and "'d1'" in passages


def test_the_command_refuses_a_run_of_another_split(folder, capsys):
    run = str(write_run(folder / "a.trec", {"q1": ["c"]}))
    assert evaluate.main(["--collection", str(folder), "--split", "test", "--runs", run]) == 2
    assert "none of its 1 queries is judged" in " ".join(capsys.readouterr().err.split())


def test_nothing_is_said_of_what_is_not_odd(tmp_path):
    folder = write(tmp_path, {"x": {"c": 1}})
    collection = load_collection(str(folder))
    split = collection.split("test")
    said = []
    assert as_judged(split, collection, Depths(), said.append) is split
    assert said == []
