"""Another process that is asked, a line at a time, and answers with a line of JSON."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from rocketjax.errors import InputError

Answer: TypeAlias = dict[str, Any]
Ask: TypeAlias = Callable[[str], Answer]


@contextmanager
def asked(module: str, work: Path, environment: Mapping[str, str] | None = None) -> Iterator[Ask]:
    """Starts `python -m module work`, which calls `answer`; gives the function that asks it.

    Raises:
        InputError: it stopped; its last words are in the message.
    """
    with (
        tempfile.TemporaryFile("w+") as printed,  # nobody reads it meanwhile: a pipe would fill up
        subprocess.Popen(
            [sys.executable, "-m", module, str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            text=True,
            env=environment,
        ) as process,
    ):
        assert process.stdin and process.stdout

        def ask(question: str) -> Answer:
            process.stdin.write(f"{question}\n")  # pyright: ignore
            process.stdin.flush()  # pyright: ignore
            line = process.stdout.readline()  # pyright: ignore
            if not line:
                process.wait()
                printed.seek(0)
                said = printed.read().strip().rpartition("\n")[2]
                raise InputError(f"the rival stopped: {said}; pip install 'rocketjax[bench]'")
            return json.loads(line)

        try:
            yield ask
        finally:
            process.kill()


def answer(to: Callable[[str], Answer]) -> None:
    """The other side: answers until its input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print must not stand among the answers
    for line in sys.stdin:
        answers.write(json.dumps(to(line.strip())) + "\n")
        answers.flush()
