"""Requests that come at about the same time, run together by one thread."""

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
    """As many jobs wait as may."""


class Done(NamedTuple, Generic[Result]):
    """What became of a job."""

    result: Result
    waited: float  # seconds until its batch began
    together: int  # jobs of that batch


@dataclass(frozen=True, eq=False)
class _Job(Generic[Item, Result]):
    work: Callable[[list[Item]], list[Result]]
    item: Item
    size: int
    future: "Future[Done[Result]]" = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """Gathers jobs for a moment and runs those of one kind together, the oldest first.

    One thread runs all of them, so that two batches never share the devices. As a context manager
    it ends that thread, after the batch at hand; jobs that still wait are cancelled.
    """

    def __init__(self, most: int, waiting: int, gather: float) -> None:
        """Starts the thread.

        Args:
            most: of the sizes of a batch's jobs, in sum; a larger job runs alone.
            waiting: jobs that may wait.
            gather: seconds that a job waits for company.
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
        """Jobs that wait."""
        with self._changed:
            return len(self._kept())

    def submit(
        self, work: Callable[[list[Item]], list[Result]], item: Item, size: int
    ) -> "Future[Done[Result]]":
        """Has `work` called with this item, among others'; cancelled, it is left out.

        Raises:
            Full: as many wait as may.
        """
        job = _Job(work, item, size)
        with self._changed:
            if self._closed or len(self._kept()) >= self._waiting:
                raise Full
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def _kept(self) -> deque[_Job[Any, Any]]:
        """The jobs that wait, without those given up, which take no place."""
        self._jobs = deque(job for job in self._jobs if not job.future.cancelled())
        return self._jobs

    def _run(self) -> None:
        while not self._closed:
            batch, started = self._next(), time.perf_counter()
            if batch := [job for job in batch if job.future.set_running_or_notify_cancel()]:
                self._answer(batch, started)

    def _next(self) -> list[_Job[Any, Any]]:
        """Waits for a batch; it is empty where all were given up meanwhile, or at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            oldest = self._jobs[0].since if self._jobs else 0.0
        time.sleep(max(0.0, oldest + self._gather - time.perf_counter()))  # others come meanwhile
        with self._changed:
            return self._take() if self._kept() else []

    def _take(self) -> list[_Job[Any, Any]]:
        """The oldest job and those of its kind; none overtakes an older one of its kind."""
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
        except BaseException as error:  # a tokenizer's panic is no Exception; the thread lives on
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for job in batch:  # one that fails takes no other with it
                self._answer([job], started)
            return
        for job, result in zip(batch, results, strict=True):
            job.future.set_result(Done(result, started - job.since, len(batch)))
