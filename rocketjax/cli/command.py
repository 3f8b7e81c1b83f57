"""What all commands share: options from the command line, progress on the screen, exit status."""

import dataclasses
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, TypeAlias

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rocketjax.cli import hosts
from rocketjax.config.options import Options, option, validated
from rocketjax.config.schema import HostsConfig
from rocketjax.runtime import signals
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import cache_folder
from rocketjax.runtime.memory import keep_freed_memory
from rocketjax.runtime.progress import Advance, in_lines, pace

Words: TypeAlias = Annotated[str, tyro.conf.Positional]  # an option without its name


GOES_ON = "the same command goes on from here (without --overwrite and --from)"


SMALLER = (
    "take a smaller --compute.chunk in training (of a stage's batch, 0 is all of it), a smaller "
    "--compute.batch elsewhere, or shorter texts; the same command goes on"
)


console = Console()


def parse_options(cls: type[Options], args: Sequence[str] | None, program: str) -> Options:
    """The options of a command, a dataclass whose docstring becomes the help.

    Raises:
        InputError: a value out of its field's range.
    """
    options = tyro.cli(cls, args=args, prog=program)
    # As plain values: of what is an instance already, pydantic checks nothing.
    values = dataclasses.asdict(options)  # pyright: ignore[reportArgumentType]
    return validated(cls, values, option)


def run_command(command: Callable[[], int | None]) -> int:
    """Runs a command; returns its exit status.

    0 done, 2 bad input, 3 diverged, 75 stopped by SIGTERM, 130 by Ctrl-C.
    """
    keep_freed_memory()
    try:
        with signals.heeded():
            return command() or 0
    except InputError as error:
        return _failed(2, f"error: {error}")
    except FloatingPointError as error:  # fit.NonFiniteError, which knows jax
        return _failed(3, f"training diverged at {error}")
    except (signals.Preempted, KeyboardInterrupt) as stop:
        if isinstance(stop, KeyboardInterrupt) or signals.by_hand():
            return _failed(130, f"stopped; {GOES_ON}")
        return _failed(signals.EXIT_STATUS, f"stopped by SIGTERM; {GOES_ON}")
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _left_unread():
            return 1
        if str(error).startswith("RESOURCE_EXHAUSTED"):  # jax's; it is not imported for --help
            first = str(error).partition("\n")[0]
            return _failed(2, f"error: a device's memory is not enough ({first}); {SMALLER}")
        hosts.crash(error)
        raise


@contextmanager
def joined(config: HostsConfig) -> Iterator[None]:
    """Runs its block as one of several processes, where so asked for; only process 0 talks."""
    with hosts.joined(config) as main:
        console.quiet = not main
        keep_programs()
        yield


def keep_programs() -> None:
    """Compiled programs stay in the cache folder, so that the next start need not compile them.

    Not on a CPU, where loading them takes XLA pages of warnings about the machine, nor where jax
    was told of another folder (JAX_COMPILATION_CACHE_DIR).
    """
    import jax

    told = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if jax.default_backend() != "cpu" and told is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "programs"))


def say(line: str) -> None:
    """Prints a line for people."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def watch(name: str, total: int, unit: str) -> Iterator[Advance]:
    """Shows a bar with rate and time left while its block runs; lines where none can be drawn."""
    if not console.is_jupyter and (not console.is_terminal or console.is_dumb_terminal):
        with in_lines(say, name, total, unit) as advance:  # a bar would come once, at the end
            yield advance
        return
    columns = (
        TextColumn(name.ljust(14)),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=total)
        yield lambda count: progress.advance(task, count)


class _Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        """As 1,234/s."""
        return Text(pace(task.finished_speed or task.speed))


def _left_unread() -> bool:
    """Whether who read our output has gone (`--help | head`); if so, no more is written there."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # for nothing but errors, which always count
    if gone := bool(output.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _failed(status: int, message: str) -> int:
    Console(stderr=True).print(message, style="bold red", markup=False, soft_wrap=True)
    return hosts.leave(status, message)
