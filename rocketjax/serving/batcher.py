"""Runs requests that arrive at about the same time together, in one thread."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Full(Exception):
    """The maximum number of jobs are already waiting."""


class Done(NamedTuple, Generic[Result]):
    """A finished job."""

    result: Result
    waited: float  # seconds until its batch started
    together: int  # jobs in its batch


@dataclass(frozen=True, eq=False)
class _Job(Generic[Item, Result]):
    work: Callable[[list[Item]], list[Result]]
    item: Item
    size: int
    future: "Future[Done[Result]]" = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """Collects jobs for a moment and runs those with the same `work` together, the oldest first.

    A single thread runs all batches, so that two of them never share the devices. Leaving the
    context manager ends the thread after its current batch and cancels the jobs that still wait.
    """

    def __init__(self, most: int, waiting: int, gather: float) -> None:
        """Starts the thread.

        Args:
            most: the maximum total size of a batch; a larger job runs alone.
            waiting: the maximum number of waiting jobs.
            gather: seconds that a job waits for others to join its batch.
        """
        self.batches = 0
        self._most, self._waiting, self._gather = most, waiting, gather
        self._jobs: deque[_Job[Any, Any]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="rocketjax-batcher")
        self._thread.start()

    def __enter__(self) -> "Batcher":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.future.cancel()
            self._changed.notify()
        self._thread.join()

    def __len__(self) -> int:
        """The number of waiting jobs."""
        with self._changed:
            return len(self._kept())

    def submit(
        self, work: Callable[[list[Item]], list[Result]], item: Item, size: int
    ) -> "Future[Done[Result]]":
        """Queues a job: `work` is called with the items of a batch and returns their results.

        Args:
            work: must return one result per item, in order.
            item: what to pass to it.
            size: what the job adds to the size of its batch.

        Returns:
            A future of the result. A job whose future is cancelled while it waits is not run.

        Raises:
            Full: the maximum number of jobs are already waiting, or the batcher is closed.
        """
        job = _Job(work, item, size)
        with self._changed:
            if self._closed or len(self._kept()) >= self._waiting:
                raise Full
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def _kept(self) -> deque[_Job[Any, Any]]:
        """Drops cancelled jobs from the queue and returns it. The lock must be held."""
        self._jobs = deque(job for job in self._jobs if not job.future.cancelled())
        return self._jobs

    def _run(self) -> None:
        while not self._closed:
            batch, started = self._next(), time.perf_counter()
            if batch := [job for job in batch if job.future.set_running_or_notify_cancel()]:
                self._answer(batch, started)

    def _next(self) -> list[_Job[Any, Any]]:
        """Waits for a batch; returns an empty one at the end, or if all jobs were cancelled."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            oldest = self._jobs[0].since if self._jobs else 0.0
        time.sleep(max(0.0, oldest + self._gather - time.perf_counter()))  # for others to join
        with self._changed:
            return self._take() if self._kept() else []

    def _take(self) -> list[_Job[Any, Any]]:
        """Takes the oldest job and those with the same work that fit, in order."""
        batch = [self._jobs.popleft()]
        room, others = self._most - batch[0].size, []
        for job in self._jobs:
            if job.work == batch[0].work and job.size <= room:
                batch.append(job)
                room -= job.size
            else:
                others.append(job)
                room = 0 if job.work == batch[0].work else room
        self._jobs = deque(others)
        return batch

    def _answer(self, batch: list[_Job[Any, Any]], started: float) -> None:
        self.batches += 1
        try:
            results = batch[0].work([job.item for job in batch])
        except BaseException as error:  # also a tokenizer's panic; the thread must live on
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for job in batch:  # one failing job must not fail the others
                self._answer([job], started)
            return
        for job, result in zip(batch, results, strict=True):
            job.future.set_result(Done(result, started - job.since, len(batch)))
