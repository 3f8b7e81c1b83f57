"""The demo collection: the same in every process, and a task whose answers are not given away."""

import builtins
import hashlib
import inspect
import os
import pkgutil
import queue
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from rocketjax.data.collection import Collection
from rocketjax.data.formats.demo import load_demo
from rocketjax.data.formats.docstrings import read_docstring
from rocketjax.runtime.errors import InputError

DIGEST = """
import hashlib, sys
{before}
from rocketjax.data.formats.demo import load_demo
demo = load_demo()
print(hashlib.sha256(repr((list(demo.passages), demo.splits)).encode()).hexdigest())
"""
BACKEND = "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"


def start(before: str, after: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DIGEST.format(before=before) + after],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def demo() -> Collection:
    return load_demo()


def test_is_the_same_in_every_process(tmp_path, demo):
    # The other process meets other imports first, a changed and a replaced class of the standard
    # library, another hash seed, home and scipy setting, and starts no device.
    process = start(
        "import scipy.stats, optax, logging.handlers\n"
        "def late(self):\n"
        "  'Log this message some time later. The body is as long as a passage has to be.'\n"
        "logging.Logger.late = late\n"
        "import pdb\n"  # as a notebook's kernel does it
        "pdb.Pdb = type('Pdb', (pdb.Pdb,), {'__module__': 'IPython.core.debugger'})",
        BACKEND,
        PYTHONHASHSEED="2",
        HOME=str(tmp_path),
        COLUMNS="40",
        SCIPY_ARRAY_API="1",
    )
    digest = hashlib.sha256(repr((list(demo.passages), demo.splits)).encode()).hexdigest()
    assert process.communicate() == (f"{digest}\n", "")


def test_is_large_enough(demo):
    sizes = {name: len(split.queries) for name, split in demo.splits.items()}
    assert list(sizes) == ["train", "dev", "test"]
    assert len(demo.passages) >= 3000
    assert min(sizes["dev"], sizes["test"]) >= 400
    assert 0.65 < sizes["train"] / sum(sizes.values()) < 0.75


def test_ids_and_texts_are_unique(demo):
    assert Counter(passage.id for passage in demo.passages).most_common(1)[0][1] == 1
    assert Counter(passage.text for passage in demo.passages).most_common(1)[0][1] == 1


def test_judgements_cover_queries_and_point_to_passages(demo):
    known = {passage.id for passage in demo.passages}
    judged = set()
    for split in demo.splits.values():
        assert split.queries.keys() == split.qrels.keys()
        for relevant in split.qrels.values():
            assert relevant and set(relevant.values()) == {1}
            assert relevant.keys() <= known
            judged |= relevant.keys()
    assert judged == known


def test_no_query_stands_in_its_passage(demo):
    texts = {passage.id: passage.text.casefold() for passage in demo.passages}
    for split in demo.splits.values():
        for query, relevant in split.qrels.items():
            for passage in relevant:
                assert split.queries[query].casefold() not in texts[passage], passage


def test_queries_are_short_sentences(demo):
    for split in demo.splits.values():
        for query in split.queries.values():
            # Hyphens join words: "Multi-head dot-product attention" has five.
            assert len(query.replace("-", " ").replace("/", " ").split()) >= 4, query
            assert len(query.split()) <= 30, query


def test_splits_share_no_sentence_and_no_family(demo):
    sentences, families = {}, {}
    for name, split in demo.splits.items():
        for query, text in split.queries.items():
            assert sentences.setdefault(text.casefold(), query) == query
            for passage in split.qrels[query]:
                family = passage.rpartition(".")[2].lower()
                assert families.setdefault(family, name) == name, passage


def test_near_duplicates_stay_apart_and_shared_sentences_have_all_their_answers(demo):
    known = {passage.id for passage in demo.passages}
    assert {"numpy.mean", "numpy.nanmean", "jax.numpy.mean", "numpy.ma.mean"} <= known
    shared = [
        relevant
        for split in demo.splits.values()
        for relevant in split.qrels.values()
        if {"numpy.linalg.pinv", "scipy.linalg.pinv"} & relevant.keys()
    ]
    assert len(shared) == 1
    assert {"numpy.linalg.pinv", "scipy.linalg.pinv"} <= shared[0].keys()


def test_every_name_is_public_and_no_object_has_two(demo):
    names: dict[object, str] = {}
    for passage in demo.passages:
        assert not any(part.startswith("_") for part in passage.id.split("."))
        builtin = hasattr(builtins, passage.id.partition(".")[0])
        found = pkgutil.resolve_name(f"builtins.{passage.id}" if builtin else passage.id)
        if inspect.isfunction(found):
            assert names.setdefault(found, passage.id) == passage.id


def test_nothing_of_this_machine_is_in_the_texts(demo):
    for passage in demo.passages:
        for trace in (" at 0x", str(Path.home()), sys.prefix, "on this platform"):
            assert trace not in passage.text, passage.id


def test_optimised_python_has_no_docstrings(monkeypatch):
    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=2))  # as -OO sets it
    with pytest.raises(InputError, match="run without -OO"):
        load_demo()


class _Hostile:
    """An object of an installed package that raises when it is asked for one thing."""

    __module__ = "queue"

    def __init__(self, asked: str, error: Exception) -> None:
        self.asked, self.error = asked, error
        self.__doc__ = "Count all that is odd.\n\nThis body is as long as a passage has to be."

    def __getattribute__(self, name: str) -> object:
        if name == object.__getattribute__(self, "asked"):
            raise object.__getattribute__(self, "error")
        return object.__getattribute__(self, name)

    def __call__(self) -> None:
        pass


def test_an_object_that_raises_is_left_out_and_counted(demo, monkeypatch):
    odd = {"__doc__": OSError(), "__module__": KeyError(), "__signature__": ZeroDivisionError()}
    for number, (asked, error) in enumerate(odd.items()):
        monkeypatch.setattr(queue, f"odd{number}", _Hostile(asked, error), raising=False)
    monkeypatch.setattr(queue, "__all__", [*queue.__all__, "odd0", "odd1", "odd2"])
    again = load_demo()
    assert list(again.passages) == list(demo.passages)
    known = re.findall(r"demo: (\d+) objects that cannot be read", " ".join(demo.notes)) or ["0"]
    assert f"demo: {3 + int(known[0])} objects that cannot be read" in again.notes[0]
    assert "queue.odd0" in again.notes[0]


@pytest.mark.slow
def test_a_process_of_optimised_python_says_so():
    code = "from rocketjax.data.formats.demo import load_demo; load_demo()"
    process = subprocess.run(
        [sys.executable, "-OO", "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert InputError.__name__ in process.stderr


def _sample(a, callback=len, marker=object(), folder="/home/me"):  # noqa: B008
    """sample(a, callback) -> int

    Count the things in `a`, e.g. its rows. More of it follows on the same line.

    Parameters
    ----------
    a : array_like
        Things to count. COUNT the things in a, e.g. its rows, as :func:`~numpy.sum` would.
        Printed as <thing at 0x7f00>.

    See Also
    --------
    other : Multiply the things in another array.

    Examples
    --------
    A short one:

    >>> sample([1])
    1
    """


def test_a_docstring_is_taken_apart():
    doc = read_docstring("package.sample", _sample)
    assert doc is not None
    assert doc.query == "Count the things in a, e.g. its rows"
    assert doc.signature == "sample(a, callback=len, marker=..., folder=...)"
    assert doc.body == (
        "More of it follows on the same line. a : array_like Things to count. , as numpy.sum would."
        " Printed as <thing>. A short one:"
    )


def _alias():
    """Alias for the other function of the package.

    Everything about the other function is true of this one as well.
    """


def _old():
    """Count all the things in an array.

    .. deprecated:: 1.0
        Everything here is done better by another function of the package.
    """


def _bare():
    """Count all the things in an array.

    Not much else.
    """


@pytest.mark.parametrize("value", [_alias, _old, _bare, 3])
def test_what_makes_no_question_is_left_out(value):
    assert read_docstring("package.name", value) is None
