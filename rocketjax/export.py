"""python -m rocketjax.export: a trained pair as models of sentence-transformers."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from rocketjax.cli.command import command, say


@dataclass(frozen=True)
class Export:
    """Writes a trained pair as folders that sentence-transformers loads, with model cards.

    OUTPUT/retriever is for SentenceTransformer (separate towers: OUTPUT/retriever/query and
    /passage), OUTPUT/reranker for CrossEncoder. Nothing is uploaded but with --push: then
    OUTPUT/retriever becomes the repository NAME-retriever of the Hugging Face hub, OUTPUT/reranker
    NAME-reranker, by the account that `hf auth login` knows.

    Example: python -m rocketjax.export --model runs/demo --output exports/demo --license apache-2.0
    """

    model: str
    """Folder of a finished run."""
    output: str
    """Folder to write; it must not exist yet."""
    push: str = ""
    """ORG/NAME on the Hugging Face hub to upload to; empty: nothing is uploaded."""
    public: bool = False
    """Make the uploaded repositories public."""
    license: str = ""
    """Licence that the model cards name, as hubs spell it (apache-2.0); empty: none."""


def _export(options: Export) -> None:
    from rocketjax.config.options import load as load_config
    from rocketjax.evaluation import results
    from rocketjax.inference.export import export, reranker_differences, retriever_differences
    from rocketjax.inference.upload import push
    from rocketjax.report.card import reranker_card, retriever_card
    from rocketjax.retrieval.load import load
    from rocketjax.runtime.errors import InputError

    if options.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", options.push):
        raise InputError(f"--push is {options.push!r}; give ORG/NAME")
    run, output = Path(options.model).expanduser(), Path(options.output).expanduser()
    model = load(run)
    for name in ("config.yaml", "report.json"):
        if not (run / name).is_file():
            raise InputError(f"{run / name}: missing; give the folder of a run that was evaluated")
    about = (load_config(run / "config.yaml"), results.load(run), options.license)
    cards = {
        "retriever": retriever_card(model.retriever, *about),
        "reranker": reranker_card(model.reranker, *about),
    }
    export(output, model.retriever, model.reranker, cards)
    say(f"{output}: retriever and reranker, for sentence-transformers and for rocketjax")
    if options.push:
        for kind in ("retriever", "reranker"):
            url = push(output / kind, f"{options.push}-{kind}", private=not options.public)
            say(f"uploaded to {url}")
    for line in retriever_differences(model.retriever) + reranker_differences(model.reranker):
        say(f"in sentence-transformers {line}")


main = command(Export, _export)

if __name__ == "__main__":
    sys.exit(main())
