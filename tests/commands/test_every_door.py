"""The same text gets the same score through every door, ours and those of others.

Commands (encode, search, rerank), Python, the server, and the exported folder in
sentence-transformers and in transformers: random models of every architecture, random texts,
titles, prompts, and texts beyond the models' lengths.
"""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import strangers
from starlette.testclient import TestClient

import rocketjax
from rocketjax import encode, rerank, search, serve
from rocketjax.config.options import dump
from rocketjax.config.schema import ComputeConfig, Config, DataConfig
from rocketjax.data.runs import read_run
from rocketjax.inference.export import export
from rocketjax.inference.folder import save_reranker, save_retriever
from rocketjax.retrieval.vectors import Vectors
from rocketjax.runtime.progress import unsaid
from rocketjax.serving.app import make_app
from rocketjax.serving.batcher import Batcher
from rocketjax.serving.requests import Limits

CLOSE = 1e-4  # of scores, in units of the largest, if that is above 1
COMPUTE = ComputeConfig(batch=4)
PROMPTS = {"query": "query: ", "document": "passage: "}


pytestmark = pytest.mark.usefixtures("one_device")


class Case:
    """A pair of models as a run's folder, its corpus, queries, and what every door makes of them.

    Every door gives scores [queries, passages], of the retriever or of the re-ranker.
    """

    def __init__(self, path, seed, compute, **said):
        rng, self.compute = np.random.default_rng(seed), compute
        self.options = ["--compute.batch", "4"]
        self.path, self.run, self.exported = path, path / "run", path / "exported"
        self.queries = strangers.texts(rng, 2, 3) + strangers.texts(rng, 1, 60)
        texts = strangers.texts(rng, 3, 6) + strangers.texts(rng, 2, 80)
        titles = ["", *strangers.texts(rng, 3, 4), ""]
        self.texts, self.titles = texts, titles
        self.whole = [f"{a} {b}".strip() if a else b for a, b in zip(titles, texts, strict=True)]
        self.pairs = [(query, text) for query in self.queries for text in self.whole]
        for kind in ("bi", "cross"):
            settings = {"prompts": PROMPTS if seed % 2 else {}, "similarity_fn_name": "dot"}
            folder = strangers.Folder(
                kind=kind,
                seed=seed,
                max_length=32,
                limits={"max_seq_length": 32},
                settings=settings if kind == "bi" else {},
            )
            strangers.write(path / kind, replace(folder, **said))
        self.save()

    def save(self):
        retriever = rocketjax.open_retriever(self.path / "bi", say=unsaid)
        reranker = rocketjax.open_reranker(self.path / "cross", say=unsaid)
        corpus, queries = self.path / "corpus.jsonl", self.path / "queries.jsonl"
        rows = [
            {"_id": f"p{i}", "title": title, "text": text}
            for i, (title, text) in enumerate(zip(self.titles, self.texts, strict=True))
        ]
        corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
        rows = [{"_id": f"q{i}", "text": text} for i, text in enumerate(self.queries)]
        queries.write_text("".join(json.dumps(row) + "\n" for row in rows))
        save_retriever(self.run / "retriever", retriever)
        save_reranker(self.run / "reranker", reranker)
        (self.run / "config.yaml").write_text(dump(Config(data=DataConfig(str(corpus)))))
        export(self.exported, retriever, reranker, {})
        common = ["--collection", str(corpus), *self.options]
        index = ["--output", str(self.run / "index"), "--index.kind", "exact"]
        assert encode.main(["--model", str(self.run), *common, *index]) == 0
        for name, depth in (("retriever", "0"), ("reranker", "5")):
            files = ["--queries", str(queries), "--output", str(self.path / f"{name}.trec")]
            options = ["--model", str(self.run), "--depth", depth, "--top-k", "5", *self.options]
            assert search.main([*options, *files]) == 0
        files = ["--queries", str(queries), "--run", str(self.path / "retriever.trec")]
        output = ["--output", str(self.path / "again.trec")]
        assert rerank.main(["--model", str(self.run), *common, *files, *output]) == 0

    def table(self, scores):
        """Scores by (query id, passage id) as an array."""
        ids = [[(f"q{i}", f"p{j}") for j in range(5)] for i in range(len(self.queries))]
        return np.array([[scores[pair] for pair in row] for row in ids])

    def of_run(self, name):
        found = read_run(self.path / f"{name}.trec")
        return self.table({(q, pid): score for q, ranked in found.items() for pid, score in ranked})


def of_python(case):
    model = rocketjax.load(case.run, case.compute)
    vectors = model.encode_query(case.queries), model.encode_passage(case.texts, case.titles)
    reranked = [model.score([q] * 5, case.texts, case.titles) for q in case.queries]
    found = [model.search(query, 5, 5) for query in case.queries]
    hits = {(f"q{i}", hit.passage.id): hit for i, hits in enumerate(found) for hit in hits}
    ranked = [model.rerank(query, case.texts, case.titles) for query in case.queries]
    ranked = {
        (f"q{i}", f"p{one.index}"): one.score for i, ones in enumerate(ranked) for one in ones
    }
    stored = Vectors(case.run / "index")
    order = [stored.ids.tolist().index(f"p{i}".encode()) for i in range(5)]
    return {
        "encode in Python": vectors[0] @ vectors[1].T,
        "encode": vectors[0] @ stored.rows(0, 5)[order].T,
        "search in Python": case.table({pair: hit.retriever_score for pair, hit in hits.items()}),
    }, {
        "score in Python": np.stack(reranked),
        "rerank in Python": case.table(ranked),
        "search in Python": case.table({pair: hit.reranker_score for pair, hit in hits.items()}),
    }


def of_server(case):
    answers = serve.open_answers(serve.Serve(str(case.run), depth=5, compute=case.compute))
    retriever, reranker, scores = {}, {}, []
    limits = Limits()
    with Batcher(limits.together, limits.waiting, 0) as batcher:
        client = TestClient(make_app(answers, batcher, limits, "tiny"))
        body = {"query": case.queries, "top_k": 5}
        for i, result in enumerate(client.post("/search", json=body).json()["results"]):
            for passage in result["passages"]:
                retriever[f"q{i}", passage["id"]] = passage["retriever_score"]
                reranker[f"q{i}", passage["id"]] = passage["reranker_score"]
        passages = [
            {"title": title, "text": text}
            for title, text in zip(case.titles, case.texts, strict=True)
        ]
        for query in case.queries:
            body = {"query": query, "passages": passages}
            scores.append(client.post("/score", json=body).json()["scores"])
    return {"/search": case.table(retriever)}, {
        "/search": case.table(reranker),
        "/score": np.array(scores),
    }


def of_sentence_transformers(case, library):
    places = {"export in sentence-transformers": case.exported / "retriever"}
    places["strangers' folder in sentence-transformers"] = case.path / "bi"
    retriever, options = {}, {"device": "cpu", "model_kwargs": {"dtype": "float32"}}
    for name, place in places.items():
        model = library.SentenceTransformer(str(place), **options)
        found = model.encode_query(case.queries), model.encode_document(case.whole)
        retriever[name] = model.similarity(*found).numpy()
    model = library.CrossEncoder(str(case.exported / "reranker"), **options)
    scores = model.predict(case.pairs).reshape(-1, 5)
    return retriever, {"export in sentence-transformers": scores}


def of_transformers(case):
    import torch
    import transformers

    def read(folder, kind, texts, length):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        batch = tokenizer(
            *texts,
            max_length=length,
            truncation="longest_first",
            padding=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            return batch, kind.from_pretrained(folder).eval()(**batch)

    def vectors(prompt, texts):
        folder, longest = case.exported / "retriever", 32
        texts = ([prompt + text for text in texts],)
        batch, found = read(folder, transformers.AutoModel, texts, longest)
        mask = batch["attention_mask"][:, :, None]
        mean = (found.last_hidden_state * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean).numpy()

    text = rocketjax.open_retriever(case.run, say=unsaid).tokenizer.config
    found = vectors(text.query_prompt, case.queries), vectors(text.passage_prompt, case.whole)
    kind = transformers.AutoModelForSequenceClassification
    texts = [list(column) for column in zip(*case.pairs, strict=True)]
    _, scores = read(case.exported / "reranker", kind, texts, 32)
    name = "export in transformers"
    return {name: found[0] @ found[1].T}, {name: scores.logits.numpy().reshape(-1, 5)}


def check(case, library):
    doors = ({"search": case.of_run("retriever")}, {"search": case.of_run("reranker")})
    doors[1]["rerank"] = case.of_run("again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch and transformers say of each other
        more = (of_python(case), of_server(case), of_sentence_transformers(case, library))
        for found in (*more, of_transformers(case)):
            for scores, others in zip(doors, found, strict=True):
                scores.update(others)
    wrong = []
    for model, scores in zip(("retriever", "re-ranker"), doors, strict=True):
        wanted = scores["search"]
        assert np.ptp(wanted) > 0.01, "scores that tell texts apart"
        for door, found in scores.items():
            error = abs(found - wanted).max() / max(1, abs(wanted).max())
            if error > CLOSE:
                wrong.append(f"{model}: {door} differs from search by {error:.1e}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("architecture", strangers.ARCHITECTURES)
def test_a_text_has_one_score_whatever_the_door(library, tmp_path, architecture):
    seed = strangers.ARCHITECTURES.index(architecture)
    check(Case(tmp_path, seed, COMPUTE, architecture=architecture), library)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_random_models_have_one_score_whatever_the_door(library, tmp_path, seed):
    drawn = strangers.drawn(seed)
    said = {name: getattr(drawn, name) for name in ("architecture", "lower", "inputs", "dtype")}
    said |= {"named_class": drawn.named_class, "side": drawn.side}
    check(Case(tmp_path, seed, COMPUTE, **said), library)
