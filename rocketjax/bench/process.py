"""Another process that is asked, a line at a time, and answers with a line of JSON."""

import json
import subprocess
import sys
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
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(work)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin and process.stdout and process.stderr

    def ask(question: str) -> Answer:
        process.stdin.write(f"{question}\n")  # pyright: ignore
        process.stdin.flush()  # pyright: ignore
        line = process.stdout.readline()  # pyright: ignore
        if not line:
            said = process.stderr.read().strip().rpartition("\n")[2]  # pyright: ignore
            raise InputError(f"the rival stopped: {said}; pip install 'rocketjax[bench]'")
        return json.loads(line)

    try:
        yield ask
    finally:
        process.kill()
        process.communicate()  # closes its pipes


def answer(to: Callable[[str], Answer]) -> None:
    """The other side: answers until its input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print must not stand among the answers
    for line in sys.stdin:
        answers.write(json.dumps(to(line.strip())) + "\n")
        answers.flush()
