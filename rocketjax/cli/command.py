"""What all commands share: options from the command line, progress on the screen, exit status."""

import dataclasses
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Annotated, Protocol, TypeAlias

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
from rocketjax.runtime.progress import Advance, Say, in_lines, pace

Words: TypeAlias = Annotated[str, tyro.conf.Positional]  # an option without its name
PROGRAMS_OF_CPU = 2 << 30  # bytes of compiled programs that are kept
RESUMES = "the same command resumes from here"
AGAIN = "start it again"  # of what keeps nothing that could be resumed

SMALLER = (
    "take a smaller --compute.chunk in training (of a stage's batch, 0 is all of it), a smaller "
    "--compute.batch elsewhere, or shorter texts"
)


def _console(stderr: bool = False) -> Console:
    # Older versions of rich take even an empty FORCE_COLOR for a terminal.
    stream = sys.stderr if stderr else sys.stdout
    plain = os.environ.get("FORCE_COLOR") == "" and not stream.isatty()
    return Console(stderr=stderr, force_terminal=False if plain else None)


console = _console()


class Main(Protocol):
    """A command's `main`."""

    def __call__(self, args: Sequence[str] | None = None) -> int:
        """Runs the command with `args` (None: sys.argv); returns its exit status."""
        ...


def command(
    cls: type[Options], work: Callable[[Options], None], program: str = "", then: str = AGAIN
) -> Main:
    """The `main` of a command: `work` with the options of `cls`, whose docstring is the help.

    Where `cls` has options `hosts`, `work` runs as one of several processes if they say so.

    Args:
        program: as it is called; empty: rocketjax.CLS.
        then: what to do after a stop, for people.
    """
    name = program or f"rocketjax.{cls.__name__.lower()}"

    def main(args: Sequence[str] | None = None) -> int:
        """Runs the command; returns its exit status."""

        def run() -> None:
            options = parse_options(cls, args, name)
            config = getattr(options, "hosts", None)
            with joined(config) if config else nullcontext():
                work(options)

        return run_command(run, then)

    return main


def parse_options(cls: type[Options], args: Sequence[str] | None, program: str) -> Options:
    """The options of a command, a dataclass whose docstring becomes the help.

    Raises:
        InputError: a value out of its field's range.
    """
    options = tyro.cli(cls, args=args, prog=program)
    # As plain values: pydantic does not check what is an instance already.
    values = dataclasses.asdict(options)  # pyright: ignore[reportArgumentType]
    return validated(cls, values, option)


def run_command(work: Callable[[], int | None], then: str = AGAIN) -> int:
    """Runs a command's work; returns its exit status.

    0 done, 2 bad input, 3 diverged, 75 stopped by SIGTERM, 130 by Ctrl-C.

    Args:
        work: returns another status, or None.
        then: what to do after a stop, for people.
    """
    keep_freed_memory()
    try:
        with signals.heeded():
            return work() or 0
    except InputError as error:
        return _failed(2, f"error: {error}")
    except FloatingPointError as error:  # NonFiniteError, whose module imports jax
        return _failed(3, f"training diverged at {error}")
    except (signals.Preempted, KeyboardInterrupt) as stop:
        if isinstance(stop, KeyboardInterrupt) or signals.by_hand():
            return _failed(130, f"stopped; {then}")
        return _failed(signals.EXIT_STATUS, f"stopped by SIGTERM; {then}")
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _left_unread():
            return 1
        if str(error).startswith("RESOURCE_EXHAUSTED"):  # jax's; it is not imported for --help
            first = str(error).partition("\n")[0]
            return _failed(
                2, f"error: a device's memory is not enough ({first}); {SMALLER}; {then}"
            )
        hosts.crash(error)
        raise


@contextmanager
def joined(config: HostsConfig) -> Iterator[None]:
    """Runs its block as one of several processes, if so configured; only process 0 prints."""
    with hosts.joined(config) as main:
        console.quiet = not main
        keep_programs()
        yield


def keep_programs() -> None:
    """Compiled programs stay in the cache folder, so that the next start need not compile them.

    A CPU's have a folder for each kind of processor, since a home may be shared by several; the
    least recently used go where they take more than PROGRAMS_OF_CPU bytes. Nothing is changed if
    jax has another folder already (JAX_COMPILATION_CACHE_DIR).
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore
        return
    from rocketjax.runtime.devices import processor

    folder = cache_folder() / "programs"
    if jax.default_backend() == "cpu":
        folder /= processor()
        jax.config.update("jax_compilation_cache_max_size", PROGRAMS_OF_CPU)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def say(line: str) -> None:
    """Prints a line for people."""
    if console.is_jupyter:
        print(line)
        return
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def watch(name: str, total: int, unit: str) -> Iterator[Advance]:
    """Shows a bar with rate and time left while its block runs; lines where none can be drawn."""
    if console.is_jupyter:
        with in_lines(_line_of_cell(), name, total, unit, 1.0) as advance:
            yield advance
        return
    if not _can_redraw():
        with in_lines(say, name, total, unit) as advance:
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


def _line_of_cell() -> Say:
    """Shows a line in a notebook's cell, each in place of the one before."""
    from IPython.display import display

    shown = display({"text/plain": ""}, raw=True, display_id=True)

    def say_again(line: str) -> None:
        shown.update({"text/plain": line}, raw=True)  # pyright: ignore

    return say_again


def _can_redraw() -> bool:
    """Whether a bar can be drawn over itself: on a terminal, not in a file or a notebook's cell.

    Programs that a notebook starts (`!python -m ...`) may have a terminal, but what they write is
    only ever appended to the cell; and FORCE_COLOR, which kernels set, makes no terminal.
    """
    in_notebook = "JPY_PARENT_PID" in os.environ
    return sys.stdout.isatty() and not console.is_dumb_terminal and not in_notebook


class _Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        """As 1,234/s."""
        return Text(pace(task.finished_speed or task.speed))


def _left_unread() -> bool:
    """Whether the reader of our output is gone (`--help | head`); if so, stops writing to it."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # only for errors, which are always reported
    if gone := bool(output.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _failed(status: int, message: str) -> int:
    _console(stderr=True).print(message, style="bold red", markup=False, soft_wrap=True)
    return hosts.leave(status, message)
