"""Trained models as folders that sentence-transformers loads, each with a model card.

A folder stays what rocketjax opens, too: rocketjax.json lies beside the other library's files, and
the parameters are the same bits.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rocketjax.inference.folder import save_reranker, save_retriever
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, read_object, write_json

# Their names since version 2 of sentence-transformers, which later versions still read.
_MODULES = "sentence_transformers.models."


_NO_ACTIVATION = "torch.nn.modules.linear.Identity"


def export(
    folder: Path, retriever: Retriever, reranker: Reranker, cards: Mapping[str, str]
) -> None:
    """Writes folder/retriever and folder/reranker, whole or not at all.

    Separate towers become retriever/query and retriever/passage, two models of their own.

    Args:
        cards: README.md of "retriever" and of "reranker".

    Raises:
        InputError: `folder` exists already.
    """
    if folder.exists():
        raise InputError(f"{folder}: exists already; delete it or export to another folder")
    with new_folder(folder) as aside:
        save_retriever(aside / "retriever", retriever)
        save_reranker(aside / "reranker", reranker)
        for tower in _towers(aside / "retriever", retriever):
            _as_sentence_transformer(tower, retriever)
        _as_cross_encoder(aside / "reranker", reranker)
        for name, text in cards.items():
            (aside / name / "README.md").write_text(text, encoding="utf-8")


def reranker_differences(model: Reranker) -> list[str]:
    """What CrossEncoder does differently from rocketjax, a line each."""
    pair = model.tokenizer.config
    return [
        f"a pair is cut to {pair.pair_length} tokens, its longer text first; its query is not cut "
        f"to {pair.query_length} before, so scores of longer queries differ"
    ]


def retriever_differences(model: Retriever) -> list[str]:
    """What SentenceTransformer does differently from rocketjax, a line each."""
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
