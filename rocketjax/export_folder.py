"""Trained models as folders that sentence-transformers loads, each with a model card.

A folder stays what rocketjax opens, too: rocketjax.json lies beside the other library's files, and
the parameters are the same bits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rocketjax import model_folder
from rocketjax.config import Config
from rocketjax.errors import InputError
from rocketjax.files import new_folder, read_object, write_json
from rocketjax.inference import Model, Reranker, Retriever
from rocketjax.report import Report

# Their names since version 2 of sentence-transformers, which later versions still read.
_MODULES = "sentence_transformers.models."
_NO_ACTIVATION = "torch.nn.modules.linear.Identity"


def export(folder: Path, model: Model, config: Config, report: Report, license_id: str) -> None:
    """Writes folder/retriever and folder/reranker, whole or not at all.

    Separate towers become retriever/query and retriever/passage, two models of their own.

    Raises:
        InputError: `folder` exists already.
    """
    if folder.exists():
        raise InputError(f"{folder}: exists already; delete it or export to another folder")
    with new_folder(folder) as aside:
        model_folder.save_retriever(aside / "retriever", model.retriever)
        model_folder.save_reranker(aside / "reranker", model.reranker)
        for tower in _towers(aside / "retriever", model.retriever):
            _as_sentence_transformer(tower, model.retriever)
        _as_cross_encoder(aside / "reranker", model.reranker)
        for name, text in (
            ("retriever", _retriever_card(model.retriever, config, report, license_id)),
            ("reranker", _reranker_card(model.reranker, config, report, license_id)),
        ):
            (aside / name / "README.md").write_text(text, encoding="utf-8")


def differs(model: Model) -> list[str]:
    """What sentence-transformers does otherwise than rocketjax, a line each."""
    pair = model.reranker.tokenizer.config
    return [
        *_retriever_differs(model.retriever),
        f"a pair is cut to {pair.pair_length} tokens, its longer text first; its query is not cut "
        f"to {pair.query_length} before, so that scores of longer queries differ",
    ]


def _retriever_differs(model: Retriever) -> list[str]:
    text, lines = model.tokenizer.config, []
    if model.module.shared:  # else each tower has its own length
        lines.append(
            f"a query is cut to {text.passage_length} tokens, as a passage is, not to "
            f"{text.query_length}"
        )
    if text.title == "segment":
        lines.append(
            "a passage's title is part of its text, in one segment, where the retriever was "
            "trained with two; vectors of passages with a title differ"
        )
    return lines


def _towers(folder: Path, model: Retriever) -> Sequence[Path]:
    if model.module.shared:
        return [folder]
    towers = [folder / "query", folder / "passage"]
    for tower in towers:
        model.tokenizer.save(tower)
    return towers


def _as_sentence_transformer(folder: Path, model: Retriever) -> None:
    module, text = model.module, model.tokenizer.config
    longest = text.query_length if folder.name == "query" else text.passage_length
    names = ["Transformer", "Pooling", *(["Normalize"] if module.normalize else [])]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{name}" if i else "",
            "type": _MODULES + name,
        }
        for i, name in enumerate(names)
    ]
    pooling = {
        "word_embedding_dimension": module.config.hidden_size,
        "pooling_mode_cls_token": module.pooling == "cls",
        "pooling_mode_mean_tokens": module.pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    for i, name in enumerate(names[1:], 1):
        (folder / f"{i}_{name}").mkdir()
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling" / "config.json", pooling)
    limits = {"max_seq_length": longest, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", limits)
    prompts = {"query": text.query_prompt or "", "document": text.passage_prompt or ""}
    similarity = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "dot"}
    write_json(folder / "config_sentence_transformers.json", similarity)


def _as_cross_encoder(folder: Path, model: Reranker) -> None:
    """A raw score, as rocketjax gives: no sigmoid, which is the other library's default."""
    activation = {"activation_fn": _NO_ACTIVATION}
    _change_json(folder / "config.json", {"sentence_transformers": activation})
    longest = model.tokenizer.config.pair_length
    _change_json(folder / "tokenizer_config.json", {"model_max_length": longest})


def _change_json(path: Path, values: dict[str, Any]) -> None:
    write_json(path, read_object(path) | values)


def _retriever_card(model: Retriever, config: Config, report: Report, license_id: str) -> str:
    text, towers = model.tokenizer.config, ("query", "passage")
    separate = "" if model.module.shared else "/{}"
    opened = "\n".join(
        f'{name} = SentenceTransformer("retriever{separate.format(name)}")' for name in towers
    )
    notes = [f"- {line}" for line in _retriever_differs(model)]
    otherwise = "\n".join(["", "", "What sentence-transformers does otherwise:", "", *notes])
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


def _reranker_card(model: Reranker, config: Config, report: Report, license_id: str) -> str:
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
