"""Files and folders appear whole or not at all."""

import shutil

import pytest

from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    write_text(path, "b")
    assert path.read_text() == "b"
    assert names(tmp_path) == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new " * 10_000 + "\ud800")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_first_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "new \ud800")
    assert names(tmp_path) == []


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "model"
    with new_folder(path) as folder:
        (folder / "old").write_text("1")
        (folder / "both").write_text("1")
        assert not path.exists()
    assert names(path) == ["both", "old"]
    with new_folder(path) as folder:
        (folder / "both").write_text("2")
        assert names(path) == ["both", "old"]
    assert names(path) == ["both"]
    assert (path / "both").read_text() == "2"
    assert names(path.parent) == ["model"]


def test_a_folder_is_never_deleted_in_its_place(tmp_path, monkeypatch):
    """It may be large: whoever is killed meanwhile would leave half of it."""
    path, deleted = tmp_path / "model", []
    rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda p, **how: (deleted.append(p), rmtree(p, **how)))
    for text in ("1", "2"):
        with new_folder(path) as folder:
            (folder / "weights").write_text(text)
    assert path not in deleted and len({*deleted}) == 2
    assert names(tmp_path) == ["model"] and (path / "weights").read_text() == "2"


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "model"
    with new_folder(path) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(KeyboardInterrupt), new_folder(path) as folder:
        (folder / "weights").write_text("new")
        raise KeyboardInterrupt
    assert (path / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_first_folder_that_fails_leaves_nothing(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(InputError, match="model: cannot be written: full"), new_folder(path):
        raise OSError("full")
    assert names(tmp_path) == []


def test_a_folder_below_a_file_is_refused(tmp_path):
    write_text(tmp_path / "file", "")
    path = tmp_path / "file" / "model"
    with pytest.raises(InputError, match="model: cannot be written: Not a dir"), new_folder(path):
        pass
