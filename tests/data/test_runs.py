"""A TREC run that is written while it comes: whole or not at all."""

import pytest

from rocketjax.data.runs import read_run, write_rankings, write_run
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


def test_ranks_that_contradict_scores_are_said(tmp_path):
    """As in a run of distances, of which the lowest are the best."""
    path, said = tmp_path / "run.trec", []
    path.write_text("q Q0 a 1 0.1 x\nq Q0 b 2 0.9 x\nr Q0 a 1 0.9 x\nr Q0 b 2 0.9 x\n")
    found = read_run(path, said.append)
    assert [[pid for pid, _ in ranked] for ranked in found.values()] == [["b", "a"], ["a", "b"]]
    assert len(said) == 1 and "ranks contradict scores in 1 of 2 queries " in said[0]
    write_run(path, RUN, "tag")
    assert read_run(path, said.append) == read_run(path) and len(said) == 1


def test_the_names_of_columns_are_no_ranking(tmp_path):
    path = tmp_path / "top1000.dev.tsv"
    path.write_text("qid\tpid\tquery\tpassage\n7\t3\twhere?\there\n7\t1\twhere?\tthere\n")
    assert read_run(path) == {"7": [("3", 0.0), ("1", -1.0)]}
