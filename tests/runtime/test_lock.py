"""One at a time in a folder: whoever holds it is named, and a dead owner holds nothing."""

import os
import resource
import signal
import subprocess
import sys

import pytest

from rocketjax.runtime import lock
from rocketjax.runtime.errors import InputError

HOLD = """
import sys
from pathlib import Path
from rocketjax.runtime.lock import held
with held(Path(sys.argv[1]), print):
    print("held", flush=True)
    input()
"""


def say(_):
    """Nothing."""


def test_a_folder_is_held_by_one_and_the_other_is_told_by_whom(tmp_path):
    folder = tmp_path / "new" / "run"
    with lock.held(folder, say):
        with (
            pytest.raises(InputError, match=rf"process {os.getpid()} on \S+ is at work here"),
            lock.held(folder, say),
        ):
            pass
        with pytest.raises(InputError), lock.held(folder, say, shared=True):
            pass
    assert list(folder.iterdir()) == []
    with lock.held(folder, say):
        pass


def test_several_may_share_a_folder_and_then_nobody_has_it_alone(tmp_path):
    with lock.held(tmp_path, say, shared=True):
        with lock.held(tmp_path, say, shared=True):
            pass
        with pytest.raises(InputError, match="is at work here"), lock.held(tmp_path, say):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_dead_owner_holds_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=f"process {process.pid} on "), lock.held(tmp_path, say):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / lock.NAME).exists()  # it is there, and keeps nobody out
    with lock.held(tmp_path, say):
        pass


def test_where_there_are_no_locks_it_says_so(tmp_path, monkeypatch):
    def unsupported(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    said = []
    with lock.held(tmp_path, said.append):
        pass
    assert len(said) == 1 and "cannot be locked (Operation not supported)" in said[0]


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), lock.held(tmp_path / "file", say):
        pass


def test_a_full_disk_is_bad_input_and_leaves_no_lock(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # files are made, and hold nothing
    try:
        with pytest.raises(InputError, match="cannot be written"), lock.held(tmp_path, say):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
