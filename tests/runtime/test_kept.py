"""What is kept for the next process: the whole of it, or it is made again."""

import os

import pytest

from rocketjax.runtime import kept as module
from rocketjax.runtime.kept import keep, kept, kept_path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKETJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_text_comes_back_under_its_name_alone():
    keep(kept_path("texts", ["a", 1]), "Größe\n\r\n\x00")
    assert kept(kept_path("texts", ["a", 1])) == "Größe\n\r\n\x00"
    assert kept(kept_path("texts", ["a", 2])) is None
    assert kept(kept_path("others", ["a", 1])) is None


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d[:40] + b"x" + d[41:], lambda d: b""]
)
def test_what_is_damaged_is_not_there(damage):
    path = kept_path("texts", [])
    keep(path, "a text of some length")
    path.write_bytes(damage(path.read_bytes()))
    assert kept(path) is None
    keep(path, "again")
    assert kept(path) == "again"


def test_a_pipe_or_a_folder_in_its_place_is_not_read(cache):
    cache.mkdir()
    os.mkfifo(cache / "pipe")  # to open it would wait for a writer
    assert kept(cache / "pipe") is None
    assert kept(cache) is None
    keep(cache, "what cannot be written does no harm")


def test_no_folder_can_be_made(cache):
    cache.write_text("a file is in its place")
    keep(kept_path("texts", []), "a text")
    assert kept(kept_path("texts", [])) is None


def test_the_oldest_go_where_they_take_too_much(cache, monkeypatch):
    monkeypatch.setattr(module, "_ALL", 900)
    paths = [kept_path("texts", [i]) for i in range(6)]
    for number, path in enumerate(paths):
        keep(path, "x" * 300)
        os.utime(path, (number, number))
    assert [path.is_file() for path in paths] == [False] * 4 + [True] * 2
