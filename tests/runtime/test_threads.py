"""Work in threads: results in order, errors raised, no more at once than allowed."""

import threading
import time

import pytest

from rocketjax.runtime.threads import in_threads


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_and_no_more_run_at_once(threads):
    running, most, lock = set(), [0], threading.Lock()

    def work(item):
        with lock:
            running.add(item)
            most[0] = max(most[0], len(running))
        time.sleep(0.002 * (item % 3))
        with lock:
            running.remove(item)
        return item * item

    assert list(in_threads(work, range(30), threads)) == [item * item for item in range(30)]
    assert most[0] == threads


def test_the_next_is_worked_on_while_a_result_is_used():
    begun = threading.Semaphore(0)

    def work(item):
        begun.release()
        return item

    results = in_threads(work, range(3), 1)
    assert next(results) == 0
    assert begun.acquire(timeout=60) and begun.acquire(timeout=60)  # of item 1, too
    assert list(results) == [1, 2]


def test_an_error_is_raised_in_its_place_and_the_rest_is_not_begun():
    begun = []

    def work(item):
        begun.append(item)
        if item == 2:
            raise ValueError("of item 2")
        return item

    results, seen = in_threads(work, range(1000), 2), []
    with pytest.raises(ValueError, match="of item 2"):
        seen.extend(results)
    assert max(begun) < 10
