"""Model cards: the README.md of an exported retriever and of an exported re-ranker."""

from pathlib import Path
from typing import Literal, TypeAlias

from rocketjax.config.schema import Config
from rocketjax.evaluation.results import Report
from rocketjax.inference.export import retriever_differences
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.report.render import render

Kind: TypeAlias = Literal["retriever", "reranker"]

PIPELINE_TAGS = {"retriever": "sentence-similarity", "reranker": "text-ranking"}
TAGS = ["rocketjax", "rocketqav2", "information-retrieval"]


def retriever_card(model: Retriever, config: Config, report: Report, license_id: str) -> str:
    """The retriever's README.md on the hub.

    Args:
        license_id: as the hub spells it (apache-2.0); empty: the card names none.
    """
    return _card(
        "retriever",
        config,
        report,
        license_id,
        text=model.tokenizer.config,
        shared=model.module.shared,
        differences=retriever_differences(model),
    )


def reranker_card(model: Reranker, config: Config, report: Report, license_id: str) -> str:
    """The re-ranker's README.md on the hub; arguments as `retriever_card`."""
    return _card("reranker", config, report, license_id, text=model.tokenizer.config)


def _card(kind: Kind, config: Config, report: Report, license_id: str, **values: object) -> str:
    weights = {"retriever": config.retriever, "reranker": config.reranker}[kind].weights
    return render(
        f"{kind}_card.md",
        front_matter=_front_matter(kind, weights, license_id),
        kind=kind,
        weights=weights,
        config=config,
        report=report,
        rows=[row for row in report.rows if row.model == kind],
        **values,
    )


def _front_matter(kind: Kind, weights: str, license_id: str) -> str:
    """What hubs read, as YAML."""
    from huggingface_hub import ModelCardData  # slow to import, and not needed for the page

    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag=PIPELINE_TAGS[kind],
        license=license_id or None,
        # Only a name on the hub: a folder of this machine means nothing elsewhere.
        base_model=None if Path(weights).exists() else weights.partition("@")[0],
        tags=TAGS,
    )
    return data.to_yaml()
