"""A pair under mteb's own runner: its measures are those that we compute."""

import numpy as np
import pytest
from on_disk import TOPICS, untrained_pair

from rocketjax.config.schema import TextConfig
from rocketjax.evaluation.metrics import per_query
from rocketjax.evaluation.mteb import MtebReranker, MtebRetriever

pytestmark = pytest.mark.filterwarnings("ignore")  # of mteb and datasets


@pytest.fixture(scope="module")
def task():
    """A local task: 30 passages, 10 queries."""
    mteb = pytest.importorskip("mteb", reason="the extra `mteb` brings mteb")
    from datasets import Dataset
    from mteb.mocks.mock_tasks.retrieval import MockRetrievalTask

    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(TOPICS[i % 5].split(), 4 + i // 5)) for i in range(30)]
    assert len(set(texts)) == 30  # no ties
    passages = [{"id": f"p{i}", "title": "", "text": text} for i, text in enumerate(texts)]
    queries = [{"id": f"q{i}", "text": TOPICS[i % 5].split()[i % 3]} for i in range(10)]

    class Topics(MockRetrievalTask):
        metadata = MockRetrievalTask.metadata.model_copy(
            update={"name": "Topics", "eval_splits": ["test"]}
        )

        def load_data(self, **kwargs):
            del kwargs
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": Dataset.from_list(passages),
                        "queries": Dataset.from_list(queries),
                        "relevant_docs": {q["id"]: {f"p{i}": 1} for i, q in enumerate(queries)},
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    return mteb, Topics(), passages, queries


@pytest.fixture(scope="module")
def pair(weights):
    return untrained_pair(weights, TextConfig(query_length=12, passage_length=16, pair_length=28))


def scores_of(mteb, model, task):
    result = mteb.evaluate(model, [task], cache=None, co2_tracker=False, show_progress_bar=False)
    return result.task_results[0].scores["test"][0]


def test_the_retrievers_measures_are_ours(task, pair):
    mteb, topics, passages, queries = task
    scores = scores_of(mteb, MtebRetriever(pair.retriever), topics)
    vectors = pair.encode_passage([p["text"] for p in passages])
    similarity = pair.encode_query([q["text"] for q in queries]) @ vectors.T
    run = {
        q["id"]: [passages[i]["id"] for i in (-row).argsort(kind="stable")]
        for q, row in zip(queries, similarity, strict=True)
    }
    wanted = per_query({q["id"]: {f"p{i}": 1} for i, q in enumerate(queries)}, run)["nDCG@10"]
    assert scores["ndcg_at_10"] == pytest.approx(sum(wanted.values()) / len(wanted), abs=1e-5)


def test_the_reranker_scores_every_pair(task, pair):
    mteb, _, _, queries = task
    from torch.utils.data import DataLoader

    def batches(texts):
        return DataLoader([{"text": text} for text in texts], batch_size=4)

    model = MtebReranker(pair.reranker)
    assert isinstance(model, mteb.models.models_protocols.CrossEncoderProtocol)
    texts = [q["text"] for q in queries]
    got = model.predict(batches(texts), batches([*texts[1:], ""]), task_metadata=None)
    assert got.tolist() == pair.score(texts, [*texts[1:], "."]).tolist()
