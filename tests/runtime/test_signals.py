"""SIGTERM and Ctrl-C end work at once, or where the work says it can."""

import os
import signal
import threading

import pytest

from rocketjax.cli.command import run_command
from rocketjax.runtime import signals as preemption
from rocketjax.runtime.signals import Preempted


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_command_leaves_with_its_own_status_and_says_how_to_go_on(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert run_command(terminate, "the same command resumes") == 75
    assert "stopped by SIGTERM; the same command resumes" in capsys.readouterr().err
    assert run_command(terminate) == 75  # of a command that keeps nothing
    assert capsys.readouterr().err == "stopped by SIGTERM; start it again\n"
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


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_first_where_that_can_be_and_a_second_one_does_not_wait(capfd):
    done = []

    def work(times):
        with preemption.deferred() as asked:
            for _ in range(times):
                interrupt()
            done.append(asked())

    before = signal.getsignal(signal.SIGINT)
    assert run_command(lambda: work(1)) == 130 and done == [True]
    said = capfd.readouterr().err
    assert "Ctrl-C again stops at once" in said and "stopped; start it again" in said
    assert run_command(lambda: work(2)) == 130 and done == [True]
    assert run_command(interrupt) == 130  # elsewhere nothing is waited for
    assert run_command(terminate) == 75  # by other means, this time
    assert signal.getsignal(signal.SIGINT) is before


def test_a_ctrl_c_that_is_not_for_this_process_stays_unheard():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run_command(interrupt) == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_one_signal_does_not_stop_the_next_command():
    assert run_command(terminate) == 75
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
