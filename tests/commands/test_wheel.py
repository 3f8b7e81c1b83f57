"""What `pip install rocketjax` brings: the package with its recipes, templates and command."""

import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROGRAM = """
from pathlib import Path
import rocketjax.config.options as options
from rocketjax.report.render import render
assert Path(options.__file__).is_relative_to(Path.cwd() / "installed"), options.__file__
assert options.load(Path("msmarco")).lists.length == 128
assert options.load(Path("gpu/squad")).name
assert "grid" in render("macros.html")
"""


def test_the_wheel_holds_all_that_the_package_reads(tmp_path):
    try:
        fits = Version(importlib.metadata.version("setuptools")) >= Version("77")
    except importlib.metadata.PackageNotFoundError:
        fits = False
    if not fits:
        pytest.skip("setuptools 77 is not installed, which builds the wheel")
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "rocketjax", "configs", "pyproject.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("no checkout of git")
    for name in [*listed.stdout.split(), "README.md"]:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    (points,) = (tmp_path / "installed").glob("*.dist-info/entry_points.txt")
    assert "rocketjax = rocketjax.__main__:main" in points.read_text()
    assert (tmp_path / "installed" / "rocketjax" / "serving" / "page.html").is_file()
    env = os.environ | {"PYTHONPATH": "installed", "PYTHONSAFEPATH": "1"}
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=env, check=True)
