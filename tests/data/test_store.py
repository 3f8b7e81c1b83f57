"""A corpus on disk: the same passages as in memory, by place and by id, read once."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocketjax.data import passages as passages_module
from rocketjax.data import store as module
from rocketjax.data.lines import BadRows
from rocketjax.data.load import load_collection
from rocketjax.data.passages import InMemory, Passage, id_hash
from rocketjax.data.store import store
from rocketjax.runtime.errors import InputError

MANY = [
    Passage(f"p{i}", f"Title {i}" if i % 3 else "", f"Text \u2028{i} " * (i % 7 + 1))
    for i in range(257)
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKETJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "ROWS", 16)  # many batches
    monkeypatch.setattr(passages_module, "ROWS", 16)
    return tmp_path / "cache"


def stored(passages, policy="fail", merge=False, name="x"):
    rows = [(f"file:{i}", passage) for i, passage in enumerate(passages, 1)]
    return store(name, [name, len(rows)], lambda bad: iter(rows), policy, merge)


def test_what_is_stored_is_what_was_given():
    found, memory = stored(MANY).passages, InMemory(MANY)
    assert list(found) == MANY
    assert len(found) == len(found.by_id) == 257
    assert found.fingerprint == memory.fingerprint
    assert [found[i] for i in (0, 15, 16, 256, -1, -257)] == [
        memory[i] for i in (0, 15, 16, 256, -1, -257)
    ]
    for part in (slice(0, 0), slice(10, 40), slice(250, 999), slice(None, None, 50), slice(5, 2)):
        assert found[part] == memory[part]
    assert all(found.by_id[passage.id] == passage for passage in MANY)
    assert list(found.by_id) == [passage.id for passage in MANY]
    for index in (257, -258):
        with pytest.raises(IndexError):
            found[index]
    for pid in ("p257", "", "p", "\ud83d"):
        assert pid not in found.by_id
        with pytest.raises(KeyError):
            found.by_id[pid]


def test_ids_of_one_hash_are_told_apart(monkeypatch):
    for place in (module, passages_module):
        monkeypatch.setattr(place, "id_hash", lambda pid: id_hash(pid[-1]))  # p1, p11, p21 ..
    found = stored(MANY).passages
    assert all(found.by_id[passage.id] == passage for passage in MANY)
    assert "px1" not in found.by_id
    with pytest.raises(InputError, match=r"file:258: id: duplicate 'p7' \(first at file:8\)"):
        stored([*MANY, MANY[7]])


def test_of_passages_with_one_id_the_first_is_kept_where_asked():
    again = [*MANY, Passage("p3", "", "another"), MANY[5], Passage("p3", "", "a third")]
    with pytest.raises(InputError, match=r"file:258: id: duplicate 'p3' \(first at file:4\)"):
        stored(again)
    found, notes = stored(again, "skip")
    assert list(found) == MANY
    assert found.fingerprint == InMemory(MANY).fingerprint
    assert len(notes) == 1
    assert notes[0].startswith("file: left out 3 bad rows: file:258: id: duplicate 'p3'")


def test_equal_passages_are_merged_where_asked():
    found, notes = stored([*MANY, *MANY[:40]], merge=True)
    assert (list(found), notes) == (MANY, [])
    with pytest.raises(InputError, match=r"file:300: id: duplicate 'p3' .* the texts differ"):
        stored([*MANY, *MANY[:42], Passage("p3", "", "another")], merge=True)


def test_an_empty_corpus_is_refused():
    with pytest.raises(InputError, match=r"^x: the corpus is empty"):
        stored([])


def test_files_are_read_once_and_again_when_they_change(tmp_path, cache):
    path, calls = tmp_path / "corpus.tsv", []

    def read(bad: BadRows):
        calls.append(path.read_text())
        yield f"{path}:1", Passage("1", "", calls[-1])

    def texts():
        return [passage.text for passage in store("x", [path], read, "fail").passages]

    path.write_text("one")
    assert (texts(), texts(), len(calls)) == (["one"], ["one"], 1)
    path.write_text("other")
    assert (texts(), len(calls)) == (["other"], 2)
    for name in ("passages.arrow", "hashes.npy", "rows.npy", "manifest.json"):
        for folder in cache.iterdir():
            data = (folder / name).read_bytes()
            (folder / name).write_bytes(data[: len(data) // 2])
        assert texts() == ["other"], name  # a damaged file is made anew
    assert len(calls) == 6
    assert not [folder for folder in cache.iterdir() if folder.name.startswith(".")]


def test_a_reader_that_fails_leaves_nothing(cache):
    def read(bad: BadRows):
        yield "file:1", MANY[0]
        raise InputError("file:2: bad")

    with pytest.raises(InputError, match="file:2: bad"):
        store("x", ["x"], read, "fail")
    assert list(cache.iterdir()) == []


@settings(max_examples=50)
@given(
    st.lists(
        st.builds(Passage, st.text(min_size=1), st.text(), st.text()),
        min_size=1,
        unique_by=lambda p: p.id,
    )
)
def test_any_texts_come_back(passages):
    found = stored(passages, name=repr(passages)).passages
    assert list(found) == passages
    assert all(found.by_id[passage.id] == passage for passage in passages)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """Two processes, one with a corpus eight times as large: what they hold differs by little."""
    held = {}
    for count in (20_000, 160_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        with (folder / "collection.tsv").open("w") as file:
            file.writelines(f"{i}\tpassage {i} {'word ' * 60}\n" for i in range(count))
        command = [sys.executable, "-c", HELD, str(folder / "collection.tsv")]
        for _ in range(2):  # the first stores, the second opens
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env=os.environ
            )
        held[count] = json.loads(done.stdout)
    texts = 140_000 * 300  # bytes of text that one corpus has more
    assert held[160_000]["private"] - held[20_000]["private"] < texts / 20


HELD = """
import json, sys
from rocketjax.data.load import load_collection
passages = load_collection(sys.argv[1]).passages
assert passages.by_id["19999"].id == "19999" and passages[-1].id == str(len(passages) - 1)
for start in range(0, len(passages), 4096):
    passages[start : start + 4096]
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({"private": int(status["RssAnon"].split()[0]) * 1024}))
"""


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    (tmp_path / "collection.tsv").write_text("1\tone\n")
    monkeypatch.delenv("ROCKETJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert load_collection(str(tmp_path / "collection.tsv")).by_id["1"].text == "one"
    assert len(list((tmp_path / "xdg" / "rocketjax").iterdir())) == 1
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("ROCKETJAX_CACHE", str(blocked / "cache"))
    with pytest.raises(InputError, match=f"{blocked}/cache/.*: cannot be written"):
        load_collection(str(tmp_path / "collection.tsv"))
