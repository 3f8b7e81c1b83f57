"""python -m rocketjax.export: a trained pair as models of sentence-transformers."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rocketjax.cli.command import command, say
from rocketjax.config.fields import PathName


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
    output: PathName
    """Folder to write; it must not exist yet."""
    format: Literal["sentence-transformers", "stablehlo"] = "sentence-transformers"
    """Model folders, or jax.export's programs, which need no rocketjax (docs/functions.md)."""
    push: str = ""
    """ORG/NAME on the Hugging Face hub to upload to; empty: nothing is uploaded."""
    public: bool = False
    """Make the uploaded repositories public."""
    license: str = ""
    """Licence that the model cards name, as hubs spell it (apache-2.0); empty: none."""
    language: tuple[str, ...] = ()
    """Languages of the texts that the model cards name, as codes (en de); empty: none."""


def _export(options: Export) -> None:
    from rocketjax.functional.stablehlo import export_stablehlo
    from rocketjax.pipeline.publish import check_repository, export_run, push_export
    from rocketjax.report.card import Owner
    from rocketjax.retrieval.load import load
    from rocketjax.runtime.copies import local
    from rocketjax.runtime.errors import InputError

    run, output = local(options.model, say), Path(options.output)
    if options.format == "stablehlo":
        if options.push or options.license or options.language:
            raise InputError(
                "--push, --license and --language are of model folders, not of --format stablehlo"
            )
        to_do = export_stablehlo(output, load(run))
        say(f"{output}: functions for CPUs, CUDA GPUs and TPUs; functions.json tells how to call")
        if to_do:
            say(f"{output}: callers do this to texts before the tokenizer's rules: {to_do}")
        return
    if options.push:
        check_repository(options.push)
    export_run(run, output, Owner(options.license, options.language), say)
    if options.push:
        push_export(output, options.push, options.public, say)


main = command(Export, _export)

if __name__ == "__main__":
    sys.exit(main())
