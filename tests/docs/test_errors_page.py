"""docs/errors.md: each row of its tables names a test, and the test is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"


def rows():
    """(line, cells) of every row below a table's head and rule."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith("|") and lines[number - 2].startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if set(cells[0]) != {"-"}:
                yield number, cells


def names_in(path):
    """The names of a file's tests, as pytest finds them."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    return {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize(("line", "cells"), [*rows()], ids=lambda x: str(x)[:5])
def test_every_row_names_a_test_that_is_there(line, cells):
    found = re.fullmatch(r'\[test\]\(\.\./(tests/\w+/test_\w+\.py) "(test_\w+)"\)', cells[-1])
    assert found, (
        f'{PAGE}:{line}: the last column is no [test](../tests/FOLDER/test_x.py "test_name")'
    )
    path = ROOT / found[1]
    assert path.is_file() and found[2] in names_in(path), f"{PAGE}:{line}: no {cells[-1]}"


def test_the_page_has_rows_and_each_is_whole():
    widths = [len(cells) for _, cells in rows()]
    assert len(widths) > 40 and set(widths) == {3, 4}


def test_no_row_stands_twice_and_the_readme_leads_here():
    faults = [cells[0] for _, cells in rows()]
    assert len(set(faults)) == len(faults)
    assert "(docs/errors.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
