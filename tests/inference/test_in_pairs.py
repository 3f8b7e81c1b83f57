"""Random model folders, opened here and by the library whose format it is: equal, or said why not.

Each folder is opened in both, and must score the same texts the same; or be refused here; or what
differs is named in a note, and without that the folder scores the same.
"""

import warnings
from collections import Counter

import numpy as np
import pytest
import strangers

import rocketjax
from rocketjax.config.schema import ComputeConfig
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import unsaid

CLOSE = 1e-4  # of scores, in units of the largest, if that is above 1
# Padding is computed, so that there is one shape for each padded length: less to compile.
COMPUTE = ComputeConfig(batch=4)
NAMED = (  # notes on what is read otherwise here
    "by default_prompt_name or the names passage and corpus",
    "truncate_dim is 8: vectors are scaled to length 1 after that cut",
    "no similarity_fn_name and no module Normalize",
    "no modules.json says how its vectors are made",
)
FIRST = ("named", *["equal"] * 5)  # what becomes of the first folders


pytestmark = pytest.mark.usefixtures("one_device")


def texts_for(folder):
    rng = np.random.default_rng(folder.seed)
    return strangers.texts(rng, 4, rng.choice([4, 40])), strangers.texts(rng, 6, 80)


def theirs(library, path, folder):
    """The library's scores of every query with every passage [4, 6]; None if it cannot."""
    import torch

    queries, passages = texts_for(folder)
    options = {"device": "cpu", "model_kwargs": {"dtype": torch.float32}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if folder.kind == "bi":
                model = library.SentenceTransformer(str(path), **options)
                found = model.encode_query(queries), model.encode_document(passages)
                return model.similarity(*found).numpy()
            model = library.CrossEncoder(str(path), **options)
            pairs = [(query, passage) for query in queries for passage in passages]
            scores = model.predict(pairs, activation_fn=torch.nn.Identity())
    except (RuntimeError, IndexError, ValueError) as error:
        # Texts longer than there are positions for, segments that the model has not.
        assert "out of" in str(error) or "index" in str(error), error
        return None
    scores = scores[:, 1] - scores[:, 0] if scores.ndim == 2 and scores.shape[1] == 2 else scores
    return scores.reshape(len(queries), len(passages))


def ours(path, folder):
    """Our scores [4, 6], and the model's notes."""
    queries, passages = texts_for(folder)
    if folder.kind == "bi":
        model = rocketjax.open_retriever(path, COMPUTE, say=unsaid)
        found = (
            model.encode_query(queries, steady=True),
            model.encode_passage(passages, steady=True),
        )
        scores = found[0] @ found[1].T
        if folder.settings["similarity_fn_name"] == "euclidean":  # allowed of unit vectors only
            scores = -np.sqrt(np.maximum(0, 2 - 2 * scores))
        return scores, model.notes
    model = rocketjax.open_reranker(path, COMPUTE, say=unsaid)
    pairs = [(query, passage) for query in queries for passage in passages]
    scores = model.score(*map(list, zip(*pairs, strict=True)), steady=True)
    return scores.reshape(len(queries), len(passages)), model.notes


def outcome(library, path, folder, again=True):
    """What becomes of a folder: equal, refused, named, "fails there", or how it differs."""
    strangers.write(path, folder)
    try:
        found, notes = ours(path, folder)
    except InputError as error:
        assert str(path) in str(error)
        return "refused"
    wanted = theirs(library, path, folder)
    if wanted is None:
        return "fails there"
    error = abs(found - wanted).max() / max(1, abs(wanted).max())
    if error <= CLOSE:
        return "equal"
    excuses = [said for said in NAMED if any(said in note for note in notes)]
    if excuses and again:
        plain = strangers.unexcused(folder)
        without = outcome(library, path.with_name(f"{path.name}-plain"), plain, again=False)
        return "named" if without in ("equal", "fails there") else f"{excuses}, and {without}"
    return f"differs by {error:.1e}"


def outcomes(library, tmp_path, seeds):
    return {seed: outcome(library, tmp_path / str(seed), strangers.drawn(seed)) for seed in seeds}


def test_random_folders_are_scored_as_there_or_said_why_not(library, tmp_path):
    assert outcomes(library, tmp_path, range(6)) == dict(enumerate(FIRST))


def test_blanks_around_a_passage_count_as_in_a_query(library, tmp_path):
    """To RoBERTa's tokenizer a blank is part of a word, at a text's start as well."""
    folder = strangers.Folder(architecture="roberta", max_length=62, seed=3)
    ours = rocketjax.open_retriever(strangers.write(tmp_path / "m", folder), say=unsaid)
    theirs = library.SentenceTransformer(str(tmp_path / "m"), device="cpu")
    texts = ["the film", " the film", "\n the film\t"]
    vectors = ours.encode_passage(texts)
    np.testing.assert_allclose(vectors, theirs.encode_document(texts), atol=CLOSE)
    np.testing.assert_allclose(vectors, ours.encode_query(texts), atol=CLOSE)
    assert abs(vectors[0] - vectors[1:]).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_hundreds_of_random_folders_are_scored_as_there_or_said_why_not(library, tmp_path, part):
    """None differs silently, and most are equal."""
    found = outcomes(library, tmp_path, range(1_000 + 100 * part, 1_100 + 100 * part))
    counts = Counter(what.partition(" by")[0] for what in found.values())
    print(f"{len(found)} folders: {dict(counts)}")
    known = ("equal", "refused", "named", "fails there")
    wrong = [f"{s}: {what}: {strangers.drawn(s)}" for s, what in found.items() if what not in known]
    assert not wrong, "\n".join(wrong)
    assert counts["equal"] > len(found) / 2, counts
