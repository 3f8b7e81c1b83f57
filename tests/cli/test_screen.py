"""What a command prints suits where it is read: a terminal, a pipe, a notebook's cell, nohup."""

import os
import pty
import re
import subprocess
import sys
import threading

import pytest

WORK = """
import sys
from rocketjax.cli.command import command, console, say, watch
from rich.table import Table

def work(options):
    say("2 [texts]")
    with watch("encode", 3, "texts") as advance:
        for _ in range(3):
            advance(1)
    table = Table("model", "MRR@10")
    table.add_row("retriever", "0.5")
    console.print(table)

from dataclasses import dataclass

@dataclass
class Options:
    "Encodes."

sys.exit(command(Options, work)([]))
"""


def printed(environment, terminal=False, before=()):
    """What the command writes to a pipe or to a terminal."""
    env = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR")}
    env |= {"TERM": "xterm", "COLUMNS": "80"} | environment
    command = [*before, sys.executable, "-c", WORK]
    if not terminal:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout
    ours, theirs = pty.openpty()
    parts = []

    def read():
        while True:
            try:
                part = os.read(ours, 1000)
            except OSError:  # the other end is closed
                return
            parts.append(part)

    process = subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait(100) == 0
    reader.join(100)
    os.close(ours)
    return b"".join(parts).decode()


@pytest.mark.parametrize("color", [{}, {"FORCE_COLOR": ""}], ids=["plain", "empty FORCE_COLOR"])
@pytest.mark.parametrize("before", [(), ("nohup",)], ids=["pipe", "nohup"])
def test_a_file_gets_lines(color, before):
    out = printed(color, before=before)
    assert re.match(r"2 \[texts\]\nencode: 3 of 3 texts, .*took 0:00:0\d\n", out)
    assert "\x1b" not in out and "\r" not in out and "retriever" in out


def test_a_terminal_gets_a_bar_unless_it_cannot_draw_one():
    out = printed({}, terminal=True)
    assert "━" in out and "3/3" in out and "\x1b[" in out
    assert "encode: 3 of 3 texts" in printed({"TERM": "dumb"}, terminal=True)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_notebooks_cell_gets_lines_once_each(terminal):
    """Kernels set FORCE_COLOR, so colours come; but what is written is never taken back."""
    out = printed({"JPY_PARENT_PID": "1", "FORCE_COLOR": "1"}, terminal)
    assert out.count("encode") == 1 and "━━━━" not in re.sub(r"┏.*┓|┡.*┩", "", out)
    assert not re.search(r"\x1b\[\d*[AK]", out)  # cursor up, erase
