"""`rocketjax COMMAND`: every command by its name."""

from pathlib import Path

import pytest

import rocketjax
from rocketjax.__main__ import COMMANDS, main


def test_every_command_is_there_with_its_help(capsys):
    package = Path(rocketjax.__file__).parent
    assert {p.stem for p in package.glob("[a-z]*.py")} | {"bench"} == set(COMMANDS)
    for name in COMMANDS:
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0 and f"rocketjax.{name}" in capsys.readouterr().out


def test_its_version_its_help_and_a_wrong_name(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rocketjax {rocketjax.__version__}\n"
    assert main([]) == main(["--help"]) == 0
    assert capsys.readouterr().out.count("rerank ") == 2
    assert main(["reranks"]) == 2
    assert capsys.readouterr().err == (
        "error: rocketjax has no command 'reranks'; did you mean rerank?\n"
    )
