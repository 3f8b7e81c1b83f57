"""rocketjax COMMAND: every command under one name; python -m rocketjax does the same."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "train": "the whole pipeline, from one config to a jointly trained pair",
    "encode": "a corpus to vectors on disk, and an index over them",
    "mine": "training lists by a trained pair of models",
    "search": "a query, or a file of them, to ranked passages",
    "rerank": "re-orders the passages of a TREC run",
    "evaluate": "judges TREC runs, or a trained pair",
    "serve": "a search page that shows both models at work, and a JSON API",
    "export": "a trained pair as models of sentence-transformers",
    "draw": "the report of a run, finished or not",
    "ablate": "what each part of joint training is worth",
    "bench": "speed beside what one would use instead",
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command by its name; returns its exit status, 2 where there is no such command."""
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in COMMANDS:
        module = "bench.__main__" if name == "bench" else name
        return import_module(f"rocketjax.{module}").main(rest)
    if name == "--version":
        from rocketjax import __version__

        print(f"rocketjax {__version__}")
        return 0
    width = max(map(len, COMMANDS))
    usage = "\n".join(f"  {known:{width}}  {what}" for known, what in COMMANDS.items())
    if name in ("--help", "-h"):
        print(f"usage: rocketjax COMMAND [options]\n\n{usage}\n\nrocketjax COMMAND --help")
        return 0
    near = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
    print(f"error: rocketjax has no command {name!r}; {hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
