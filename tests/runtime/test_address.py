"""Addresses: which are known, and what is said where they cannot be used. No emulator is needed."""

import sys
from pathlib import Path

import pytest

from rocketjax import draw
from rocketjax.config.schema import Config, run_folder
from rocketjax.runtime.cloud import Cloud, is_address
from rocketjax.runtime.copies import local
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import write_text


@pytest.mark.parametrize("name", ["gs://data/runs/x", "gs:/data/runs/x", "gs://data.org/x/"])
def test_an_address_is_one_with_and_without_pathlib(name):
    assert is_address(name) and is_address(Path(name))


@pytest.mark.parametrize(
    "name", ["runs/x", "/runs/x", "hf:org/name", "irds:beir/nq", "org/a@b", ""]
)
def test_other_names_are_none(name):
    assert not is_address(name)


@pytest.mark.parametrize(
    "name", ["s3://data/x", "https://host/x", "gs://data", "gs://data/", "gs://"]
)
def test_other_services_and_whole_buckets_are_refused(name):
    with pytest.raises(InputError, match=r"(give|rocketjax knows) gs://BUCKET/PATH"):
        is_address(name)


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    for use in (Cloud, local):
        with pytest.raises(InputError, match=r"gs://data/x: .*pip install 'rocketjax\[gcs\]'"):
            use("gs://data/x")


def test_each_address_has_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("ROCKETJAX_CACHE", str(tmp_path))
    names = ["gs://data/runs/x", "gs://data/x", "gs://other/runs/x"]
    folders = {run_folder(Config(run_dir=name)) for name in names}
    assert len(folders) == 3 and {folder.name for folder in folders} == {"x"}
    assert all(folder.is_relative_to(tmp_path) for folder in folders)
    assert run_folder(Config(run_dir="gs://data/runs/x/")) in folders


def test_nothing_makes_a_folder_called_gs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert draw.main(["--run", "gs://data/x"]) == 2
    assert "its report.html lies there" in capsys.readouterr().err
    with pytest.raises(InputError, match="only training, encode and mine write to an address"):
        write_text(Path("gs://data/x"), "text")
    assert not list(tmp_path.iterdir())
