"""A TREC run that is written while it comes: whole or not at all."""

import pytest

from rocketjax.data.runs import write_rankings, write_run
from rocketjax.runtime.errors import InputError

RUN = {f"q{i}": [(f"p{j}", 1 / (1 + i + j)) for j in range(40)] for i in range(50)}


def test_rankings_are_written_as_they_come_and_as_a_whole_run_is(tmp_path):
    path, sizes = tmp_path / "new.trec", []

    def coming():
        for item in RUN.items():
            assert not path.exists()
            (aside,) = tmp_path.iterdir()
            sizes.append(aside.stat().st_size)
            yield item

    assert write_rankings(path, coming(), "tag") == 50
    # What the file's buffer holds, 8 KiB, waits.
    assert sizes == sorted(sizes) and sizes[-1] > path.stat().st_size - 10_000 > 10_000
    write_run(tmp_path / "whole.trec", RUN, "tag")
    assert path.read_bytes() == (tmp_path / "whole.trec").read_bytes()
    assert path.read_text().startswith("q0 Q0 p0 1 1 tag\nq0 Q0 p1 2 0.5 tag\n")


def test_what_breaks_off_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "run.trec"
    path.write_text("old")

    def broken():
        yield from RUN.items()
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        write_rankings(path, broken(), "tag")
    assert [*tmp_path.iterdir()] == [path] and path.read_text() == "old"
