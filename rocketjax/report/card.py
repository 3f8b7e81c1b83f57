"""Model cards: the README.md of an exported retriever and of an exported re-ranker.

They state what hubs and mteb (its ModelMeta) ask for, as far as the run knows it: nothing is
guessed. What only its owner knows, license and languages, is left out unless given.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import jax

from rocketjax.config.schema import Config
from rocketjax.evaluation.results import Report
from rocketjax.inference.export import retriever_differences
from rocketjax.inference.model import TextModel
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.report.render import render
from rocketjax.runtime.errors import InputError

Kind: TypeAlias = Literal["retriever", "reranker"]

PIPELINE_TAGS = {"retriever": "sentence-similarity", "reranker": "text-ranking"}
TAGS = ["rocketjax", "rocketqav2", "information-retrieval"]
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")  # of a model on the hub


@dataclass(frozen=True)
class Owner:
    """What the owner of a model says of it.

    Attributes:
        license: as the hub spells it (apache-2.0); empty: the card names none.
        languages: of the texts, two or three letters each (en, deu); empty: the card names none.
    """

    license: str = ""
    languages: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raises InputError for a language that is no code."""
        for language in self.languages:
            if not re.fullmatch(r"[a-z]{2,3}", language):
                raise InputError(f"language {language!r}: expected a code as en or deu (ISO 639)")


def retriever_card(model: Retriever, config: Config, report: Report, owner: Owner) -> str:
    """The retriever's README.md on the hub."""
    module, text = model.module, model.tokenizer.config
    facts = {
        "Dimensions of a vector": f"{module.width}",
        "Similarity": "cosine" if module.normalize else "dot product",
        "Longest passage": f"{text.passage_length} tokens",
        "Longest query": f"{text.query_length} tokens",
    }
    return _card(
        "retriever",
        model,
        (config, report, owner),
        facts=facts,
        shared=module.shared,
        differences=retriever_differences(model),
    )


def reranker_card(model: Reranker, config: Config, report: Report, owner: Owner) -> str:
    """The re-ranker's README.md on the hub."""
    facts = {"Longest pair": f"{model.tokenizer.config.pair_length} tokens"}
    return _card("reranker", model, (config, report, owner), facts=facts)


def _card(
    kind: Kind,
    model: TextModel,
    about: tuple[Config, Report, Owner],
    facts: dict[str, str],
    **values: object,
) -> str:
    config, report, owner = about
    weights = {"retriever": config.retriever, "reranker": config.reranker}[kind].weights
    text = model.tokenizer.config
    prompts = [repr(p) for p in (text.query_prompt, text.passage_prompt) if p]
    return render(
        f"{kind}_card.md",
        front_matter=_front_matter(kind, weights, config, owner),
        kind=kind,
        weights=weights,
        config=config,
        report=report,
        rows=[row for row in report.rows if row.model == kind],
        text=text,
        facts=facts
        | {
            "Prompts": " and ".join(prompts) or "none",
            "Parameters": f"{sum(x.size for x in jax.tree.leaves(model.params)):,}",
            "Revision": f"`{model.fingerprint}`, a hash of parameters and tokenizer",
            "Languages": ", ".join(owner.languages) or "not stated",
            "License": owner.license or "not stated",
        },
        **values,
    )


def _front_matter(kind: Kind, weights: str, config: Config, owner: Owner) -> str:
    """What hubs read, as YAML."""
    from huggingface_hub import ModelCardData  # slow to import, and not needed for the page

    name = weights.partition("@")[0]
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag=PIPELINE_TAGS[kind],
        license=owner.license or None,
        language=list(owner.languages) or None,
        # Only names on the hub: folders of this machine mean nothing elsewhere.
        base_model=name if _NAME.fullmatch(name) and not Path(weights).exists() else None,
        datasets=_on_the_hub(config.data.collection),
        tags=TAGS,
    )
    return data.to_yaml()


def _on_the_hub(collection: str) -> list[str] | None:
    """The data set's name on the hub, if the collection is one."""
    prefix, _, rest = collection.partition(":")
    name = rest.partition(":")[0]
    return [name] if prefix == "hf" and not Path(name).exists() else None
