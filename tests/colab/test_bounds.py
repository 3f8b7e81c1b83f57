"""Colab keeps what it has: our bounds take every version that its images hold.

.ci/colab installs on an image and runs there; this finds in a moment what would be replaced.
"""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("image", ["gpu", "tpu"])
def test_nothing_that_colab_holds_is_replaced(image):
    lines = Path(__file__).with_name(f"{image}.txt").read_text(encoding="utf-8").splitlines()
    held = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["notebooks"], *extras["hub"]]
    met = [
        (requirement, held[requirement.name.lower()])
        for requirement in map(Requirement, wanted)
        if requirement.name.lower() in held
    ]
    assert len(met) > 15
    assert not [(str(r), version) for r, version in met if not r.specifier.contains(version)]
