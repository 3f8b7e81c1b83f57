"""SIGTERM ends work at once, or where the work says it can."""

import os
import signal
import threading

import pytest

from rocketjax import preemption
from rocketjax.cli import run
from rocketjax.preemption import Preempted


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_command_leaves_with_its_own_status_and_says_how_to_go_on(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert run(terminate) == 75
    assert "stopped by SIGTERM; the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_deferring_block_is_not_interrupted():
    done = []
    with pytest.raises(Preempted), preemption.heeded():
        with preemption.deferred() as asked:
            assert not asked()
            terminate()
            terminate()  # a second one does nothing
            done.append(asked())
        done.append("beyond")  # it did not ask in time, and is left all the same
    assert done == [True]


def test_one_signal_does_not_stop_the_next_command():
    assert run(terminate) == 75
    with preemption.heeded(), preemption.deferred() as asked:
        assert not asked()


def test_only_the_main_thread_sets_handlers():
    before, after = signal.getsignal(signal.SIGTERM), []

    def work():
        with preemption.heeded():
            after.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert after == [before]
