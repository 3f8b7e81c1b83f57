"""The models and the corpus that earlier stages left, as later stages take them up."""

from pathlib import Path

import jax

from rocketjax.config.loss import LossConfig
from rocketjax.inference.folder import load_reranker, load_retriever
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.inference.start import pretrained_reranker, pretrained_retriever
from rocketjax.mining.teacher import Teacher, open_teacher
from rocketjax.models.bi_encoder import BiEncoder
from rocketjax.pipeline.context import Run
from rocketjax.retrieval.encode import encode_corpus, origin_of
from rocketjax.retrieval.index import Sample
from rocketjax.retrieval.model import Corpus
from rocketjax.retrieval.open import build_index, open_index, sample_first
from rocketjax.runtime import processes
from rocketjax.training.matryoshka import settled, temperature_of

_FOR_COSINES = 0.2  # temperatures below it are for scores between -1 and 1
SAMPLE = 200  # training queries on which an index's recall is measured


def start_retriever(run: Run) -> Retriever:
    """The retriever that the run starts from."""
    config = run.config
    start = pretrained_retriever(config.retriever, config.text, config.compute)
    _check_same("retriever.weights", start)
    run.note(start.notes)
    run.note([_scored(start.module, config.loss)])
    return start


def start_reranker(run: Run) -> Reranker:
    """The re-ranker that the run starts from; its head is fresh unless the weights bring one."""
    config = run.config
    start = pretrained_reranker(config.reranker, config.text, config.compute, config.seed)
    _check_same("reranker.weights", start)
    run.note(start.notes)
    return start


def _scored(retriever: BiEncoder, loss: LossConfig) -> str:
    """One line: what the retriever's scores are, and by what they are divided in training."""
    cosines, temperature = retriever.normalize, temperature_of(loss, retriever)
    kind = "cosines" if cosines else "dot products of vectors that are not scaled to length 1"
    why = "the default for those" if loss.retriever_temperature is None else "as given"
    line = (
        f"the retriever's scores are {kind} of {retriever.width} numbers; "
        f"loss.retriever_temperature is {temperature:g}, {why}"
    )
    if loss.matryoshka:
        widths = zip(loss.matryoshka, settled(loss, retriever).matryoshka_weights, strict=True)
        line += "; its losses are of " + ", ".join(
            f"{width} ({weight:.3g})" for width, weight in widths
        )
        line += " numbers (weight), and so is what is measured in the end"
    if cosines and temperature >= _FOR_COSINES:
        line += (
            ". Cosines divided by that hardly differ, so that there is little to learn from: give "
            "--loss.retriever-temperature 0.05, or --retriever.normalize False"
        )
    if not cosines and temperature < _FOR_COSINES:
        line += (
            ". That is for cosines: losses and gradients may start out very large; give "
            "--loss.retriever-temperature 1, or --retriever.normalize True"
        )
    return line


def _check_same(option: str, model: Retriever | Reranker) -> None:
    """Each host has read its own copy; from different weights, replicas would never agree."""
    if jax.process_count() > 1:
        processes.check_same(f"the weights of {option}", model.fingerprint)


def warmed_retriever(run: Run) -> Retriever:
    """The retriever that mines, with the dropout it trains with."""
    if run.config.retriever_warmup.steps == 0:
        return start_retriever(run)
    folder = run.folder / "warmup" / "retriever"
    return load_retriever(folder, run.config.compute, run.config.retriever.dropout)


def warmed_reranker(run: Run) -> Reranker:
    """The re-ranker that denoises, with the dropout it trains with."""
    if run.config.reranker_warmup.steps == 0:
        return start_reranker(run)
    folder = run.folder / "warmup" / "reranker"
    return load_reranker(folder, run.config.compute, run.config.reranker.dropout)


def teacher_of(run: Run) -> Teacher | None:
    """Whose scores lists keep: a cross-encoder's, a file's or the rows'; None: they keep none.

    Those of rows are kept only to teach.
    """
    config = run.config
    if not config.lists.teacher and config.loss.teacher == "live":
        return None
    teacher = open_teacher(
        config.lists.teacher, config.compute, run.judged, lambda line: run.note([line])
    )
    if isinstance(teacher, Reranker):
        _check_same("lists.teacher", teacher)
    return teacher


def encode_warmed(run: Run, retriever: Retriever) -> Corpus:
    """The corpus by the warmed retriever; the start has encoded it if nothing was warmed."""
    warmed = run.config.retriever_warmup.steps > 0
    folder = run.folder / "warmup" / "retriever"
    name = run.name_of(folder) if warmed else run.config.retriever.weights
    return encode_into(run, retriever, name, warmed_corpus_folder(run))


def open_warmed(run: Run, retriever: Retriever) -> Corpus:
    """The corpus that `encode_warmed` has encoded."""
    return open_encoded(run, retriever, warmed_corpus_folder(run))


def warmed_corpus_folder(run: Run) -> Path:
    """Folder of the vectors that mining searches: the start's, if no retriever was warmed up.

    They are there, too, where the start was judged once and has since been left out of the report
    (--from).
    """
    start = run.folder / "start" / "index"
    judged = run.config.evaluate.start or processes.from_main(start.is_dir)
    warmed = run.config.retriever_warmup.steps > 0
    return start if judged and not warmed else run.folder / "warmup" / "index"


def encode_into(run: Run, retriever: Retriever, name: str, folder: Path) -> Corpus:
    """Encodes the corpus into `folder` and builds the index over it; what is there stays."""
    texts = [run.train.queries[query] for query in sorted(run.train.queries)[:SAMPLE]]
    sample = Sample("training queries", lambda: retriever.encode_query(texts, steady=True))
    sample_first(run.config.index, sample, folder, run.say)
    vectors = encode_corpus(retriever, name, run.collection, run.config.index, folder, run.watch)
    assert vectors is not None  # all processes have done their part
    index = build_index(vectors, run.config.index, sample, min(100, len(vectors)), run.say)
    return Corpus(index, run.collection.by_id)


def open_encoded(run: Run, retriever: Retriever, folder: Path) -> Corpus:
    """The corpus encoded in `folder`; refused unless this retriever made it, of this collection."""
    expected = origin_of(retriever, "the retriever of this run", run.collection)
    return Corpus(open_index(folder, run.config.index, expected), run.collection.by_id)
