"""Where a command writes: a folder, or an address of Google Cloud Storage (mirror.py)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rocketjax.runtime import processes
from rocketjax.runtime.cloud import Cloud, is_address, own_folder
from rocketjax.runtime.commits import Skip, nothing
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.follower import Follower
from rocketjax.runtime.lock import held, held_by_main
from rocketjax.runtime.mirror import mirrored
from rocketjax.runtime.processes import Exchange
from rocketjax.runtime.progress import Say, Watch


class Workplace(NamedTuple):
    """A folder to work in, which this command alone has."""

    folder: Path
    watched: Callable[[Watch], Watch]  # a `Watch` that commits as work gets done
    commit: Callable[[], None]  # what is in the folder now is to outlast this machine


def _refused(names: list[str]) -> None:
    raise AssertionError(f"only process 0 takes files: {names}")


def uncommitted() -> None:
    """A folder's `commit`: what is written there is written."""


@contextmanager
def opened(name: str, say: Say, shared: bool = False, skip: Skip = nothing) -> Iterator[Workplace]:
    """Opens a folder, or an address, for one command; process 0 of several holds it for all.

    Args:
        name: of the folder, or gs://BUCKET/PATH.
        shared: others may work there too, if they ask for it as shared.
        skip: folders that need not outlast this machine.

    Raises:
        InputError: another process is at work there, or it cannot be reached or written.
    """
    if not is_address(name):
        folder = Path(name)
        with held_by_main(folder, say, shared):
            yield Workplace(folder, lambda watch: watch, uncommitted)
        return
    if shared:
        raise InputError(f"{name}: several --workers share a disk; take one worker, or --hosts")
    if processes.is_main():
        folder = own_folder(name, "runs")
        with (
            held(folder, say),
            mirrored(name, folder, say, skip) as mirror,
            processes.exchanging(Exchange(mirror.flush, list, mirror.take)),
        ):
            processes.barrier()  # the others fetch what is there
            yield Workplace(folder, mirror.watched, mirror.commit)
        return
    # Processes of one machine share its cache, and not their folders.
    folder = own_folder(name, f"runs-of-process-{processes.number()}")
    with held(folder, say):
        follower = Follower(Cloud(name), folder, say)
        with processes.exchanging(Exchange(follower.follow, follower.give, _refused)):
            processes.barrier()
            try:
                yield Workplace(folder, follower.watched, uncommitted)
            except BaseException:
                follower.try_to_offer()
                raise
