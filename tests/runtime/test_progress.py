"""Work without a terminal tells how far it is, in lines; the clock is the test's."""

import pytest

from rocketjax.cli import command as cli
from rocketjax.runtime import progress


class Clock:
    """Stands still between `wait`s."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock, raising=False)
    return clock


def test_without_a_terminal_a_line_comes_now_and_then(clock, capsys):
    with cli.watch("mine", 475_000, "queries") as advance:
        advance(0)
        for _ in range(29):
            clock.wait(1)
            advance(80)
        assert capsys.readouterr().out == ""  # nothing before its time
        for _ in range(91):
            clock.wait(1)
            advance(80)
        assert capsys.readouterr().out.splitlines() == [
            "mine: 2,400 of 475,000 queries",
            "mine: 4,800 of 475,000 queries, 80/s, 1:37:57 left",
            "mine: 7,200 of 475,000 queries, 80/s, 1:37:27 left",
            "mine: 9,600 of 475,000 queries, 80/s, 1:36:57 left",
        ]
        clock.wait(5_818)
        advance(465_400)
        assert capsys.readouterr().out == ""  # the end has its own
    last = "mine: 475,000 of 475,000 queries, 80/s, took 1:38:58\n"
    assert capsys.readouterr().out == last


def test_what_was_done_before_and_compiling_tell_nothing_of_the_pace(clock):
    said = []
    with progress.in_lines(said.append, "joint", 10_000, "steps") as advance:
        advance(9_000)  # goes on from there
        clock.wait(100)  # compiles
        advance(1)
        for _ in range(10):
            clock.wait(8)
            advance(1)
    assert said[:2] == [
        "joint: 9,001 of 10,000 steps",
        "joint: 9,005 of 10,000 steps, 0.125/s, 2:12:40 left",
    ]
    assert said[-1] == "joint: 9,011 of 10,000 steps, 0.125/s, took 0:03:00"


def test_work_that_is_stopped_says_how_far_it_came(clock):
    said = []
    with (
        pytest.raises(ValueError),
        progress.in_lines(said.append, "mine", 12, "queries") as advance,
    ):
        advance(3)
        clock.wait(5)
        raise ValueError
    assert said == ["mine: 3 of 12 queries, took 0:00:05"]
