"""A finished run given away: as folders for sentence-transformers, on the Hugging Face hub."""

import re
from pathlib import Path

from rocketjax.config.options import load_own
from rocketjax.evaluation import results
from rocketjax.inference.export import export, reranker_differences, retriever_differences
from rocketjax.inference.upload import push
from rocketjax.report.card import Owner, reranker_card, retriever_card
from rocketjax.retrieval.load import load
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.progress import Say


def export_run(run: Path, output: Path, owner: Owner, say: Say) -> None:
    """Writes both models of a run with model cards, and says what others compute differently.

    Raises:
        InputError: no run that was evaluated, or `output` exists.
    """
    model = load(run)
    for name in ("config.yaml", "report.json"):
        if not (run / name).is_file():
            raise InputError(f"{run / name}: missing; give the folder of a run that was evaluated")
    about = (load_own(run / "config.yaml"), results.load(run), owner)
    cards = {
        "retriever": retriever_card(model.retriever, *about),
        "reranker": reranker_card(model.reranker, *about),
    }
    export(output, model.retriever, model.reranker, cards)
    say(f"{output}: retriever and reranker, for sentence-transformers and for rocketjax")
    for line in retriever_differences(model.retriever) + reranker_differences(model.reranker):
        say(f"in sentence-transformers {line}")


def check_repository(name: str) -> None:
    """Raises InputError where `name` is not ORG/NAME."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"the hub's repository is {name!r}; give ORG/NAME")


def push_export(output: Path, name: str, public: bool, say: Say) -> None:
    """Uploads what `export_run` wrote, as `name`-retriever and `name`-reranker.

    Raises:
        InputError: `name` is not ORG/NAME, or what `upload.push` raises.
    """
    check_repository(name)
    for kind in ("retriever", "reranker"):
        url = push(output / kind, f"{name}-{kind}", private=not public)
        say(f"uploaded to {url}")
