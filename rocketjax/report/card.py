"""Model cards for the exported retriever and re-ranker."""

from pathlib import Path

from rocketjax.config.schema import Config
from rocketjax.evaluation.results import Report
from rocketjax.inference.export import retriever_differences
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever


def retriever_card(model: Retriever, config: Config, report: Report, license_id: str) -> str:
    """The retriever's README.md on the hub."""
    text, towers = model.tokenizer.config, ("query", "passage")
    separate = "" if model.module.shared else "/{}"
    opened = "\n".join(
        f'{name} = SentenceTransformer("retriever{separate.format(name)}")' for name in towers
    )
    notes = [f"- {line}" for line in retriever_differences(model)]
    otherwise = "\n".join(["", "", "What sentence-transformers does differently:", "", *notes])
    return _card(
        "retriever",
        "sentence-similarity",
        config.retriever.weights,
        f"""A passage is its title, a blank and its text, cut to {text.passage_length} tokens;
a query is cut to {text.query_length}. The dot product of both vectors is the score.

```python
from sentence_transformers import SentenceTransformer

{opened}
scores = query.encode_query(["a query"]) @ passage.encode_document(["A title and a text"]).T
```{otherwise if notes else ""}""",
        config,
        report,
        license_id,
    )


def reranker_card(model: Reranker, config: Config, report: Report, license_id: str) -> str:
    """The re-ranker's README.md on the hub."""
    text = model.tokenizer.config
    return _card(
        "reranker",
        "text-ranking",
        config.reranker.weights,
        f"""Reads a query and a passage (title, blank, text) together, {text.pair_length} tokens at
most, and gives a raw score that compares passages of one query; it is no probability. It was
trained with queries cut to {text.query_length} tokens, which this library does not cut.

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("reranker")
scores = model.predict([("a query", "A title and a text")])
```""",
        config,
        report,
        license_id,
    )


def _card(
    kind: str,
    task: str,
    weights: str,
    use: str,
    config: Config,
    report: Report,
    license_id: str,
) -> str:
    """A model card: front matter that hubs read, use, training data, figures, command."""
    rows = [row for row in report.rows if row.model == kind]
    figures = "\n".join(
        f"| {row.measure} | {'' if row.before is None else f'{row.before:.3f}'} | {row.after:.3f} |"
        for row in rows
    )
    front = [
        *("library_name: sentence-transformers", f"pipeline_tag: {task}"),
        *([f"license: {license_id}"] if license_id else []),
        # A hub's name only: a folder of this machine means nothing elsewhere.
        *([f"base_model: {weights.partition('@')[0]}"] if not Path(weights).exists() else []),
        "tags: [rocketjax, rocketqav2, information-retrieval]",
    ]
    data = config.data
    return "\n".join(
        [
            *("---", *front, "---", ""),
            f"# {config.name}: {kind}",
            "",
            "Trained together with its partner by [RocketQAv2](https://arxiv.org/abs/2110.07367)'s",
            "dynamic listwise distillation, with rocketjax.",
            *("", use, "", "## Training", ""),
            f"- Started from: `{weights}`",
            f"- Data: `{data.collection}`, split `{data.train_split}`",
            f"- Joint steps: {config.joint.steps} of {config.joint.batch} lists of "
            f"{config.lists.length} passages; loss preset `{config.loss.preset}`",
            "- Command: `python -m rocketjax.train --config config.yaml`, with the config of the",
            "  run's folder",
            *("", f"## Figures on split `{data.eval_split}`, {report.queries} queries", ""),
            *("| measure | before | after |", "|---|---:|---:|", figures, ""),
        ]
    )
