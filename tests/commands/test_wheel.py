"""What `pip install rocketjax` brings: the package with its recipes, templates and command.

The version is git's: a tag, or what came after it.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
import rocketjax.config.options as options
from rocketjax.report.render import render
assert Path(options.__file__).is_relative_to(sys.argv[1]), options.__file__
assert options.load(Path("msmarco")).lists.length == 128
assert options.load(Path("gpu/squad")).name
render("macros.html")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the files that git tracks or would."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "rocketjax", "configs", "pyproject.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("no checkout of git")
    for name in [*listed.stdout.split(), "README.md", "LICENSE"]:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", str(folder), str(source)], check=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as packed:
        packed.extractall(folder / "installed")
    return folder / "installed"


def alone(wheel):
    """An environment in which the wheel's package is the only rocketjax."""
    return os.environ | {"PYTHONPATH": str(wheel), "PYTHONSAFEPATH": "1"}


def test_it_holds_all_that_the_package_reads(wheel, tmp_path):
    (points,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "rocketjax = rocketjax.__main__:main" in points.read_text()
    assert (wheel / "rocketjax" / "serving" / "page.html").is_file()
    program = [sys.executable, "-c", PROGRAM, str(wheel)]
    subprocess.run(program, cwd=tmp_path, env=alone(wheel), check=True)


def test_its_metadata_say_what_an_index_shows(wheel):
    (path,) = wheel.glob("*.dist-info/METADATA")
    metadata = path.read_text(encoding="utf-8")
    for line in (
        "License-Expression: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.11",
        "Description-Content-Type: text/markdown",
        "Classifier: Typing :: Typed",
    ):
        assert f"{line}\n" in metadata
    for name in ("Repository", "Documentation", "Changelog", "Issues"):
        assert f"Project-URL: {name}, https://" in metadata
    assert "Version: 0.1.dev0\n" in metadata  # a source without git's history


@pytest.mark.slow
def test_it_runs_the_demo_in_an_empty_folder(wheel, weights, tmp_path):
    small = (
        "--reranker-warmup.steps 1 --lists.denoised 0 --joint.steps 1 --data.max-eval-queries 5 "
    )
    small += f"--retriever.weights {weights} --reranker.weights {weights} --index.kind exact "
    small += "--text.query-length 12 --text.passage-length 12 --text.pair-length 24"
    command = [sys.executable, "-m", "rocketjax", "train", *small.split()]
    subprocess.run(command, cwd=tmp_path, env=alone(wheel), check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert (tmp_path / "runs" / "demo" / "report.html").is_file()


@pytest.mark.parametrize(
    ("commands", "version"),
    [
        ([], "0.1.dev0"),
        (["init -q", "commit -q --allow-empty -m one"], "0.1.dev1+g"),
        (["init -q", "commit -q --allow-empty -m one", "tag v9.8.7"], "9.8.7"),
        (
            ["init -q", "commit -q --allow-empty -m a", "tag v9.8.7", "commit --allow-empty -m b"],
            "9.8.8.dev1+g",
        ),
    ],
    ids=["no git", "no tag", "a tag", "after a tag"],
)
def test_the_version_is_gits(commands, version, tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / ".gitignore").write_text("*\n")  # or the tree would be dirty
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in commands:
        subprocess.run(["git", *identity, *command.split()], cwd=tmp_path, check=True)
    found = subprocess.run(
        [sys.executable, "-m", "setuptools_scm"],
        cwd=tmp_path,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert found.startswith(version) and ("+" in version or found == version)
