"""For tests that wait for what other threads or processes do."""

import time


def until(true, seconds=60):
    """Waits until it is; `seconds`: more than a busy machine takes."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so within {seconds} s"
        time.sleep(0.01)
