"""Exports trained models as folders that sentence-transformers loads, each with a model card.

rocketjax can still open such a folder: it also holds rocketjax.json, and the parameters are the
same to the bit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rocketjax.inference.folder import save_reranker, save_retriever
from rocketjax.inference.reranker import Reranker
from rocketjax.inference.retriever import Retriever
from rocketjax.models.head_modules import IDENTITY, MODULES
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, read_object, write_json


def export(
    folder: Path, retriever: Retriever, reranker: Reranker, cards: Mapping[str, str]
) -> None:
    """Writes folder/retriever and folder/reranker, whole or not at all.

    Separate towers become retriever/query and retriever/passage, each a model of its own.

    Args:
        folder: must not exist.
        retriever: written as a SentenceTransformer.
        reranker: written as a CrossEncoder.
        cards: the text of README.md, for "retriever" and "reranker".

    Raises:
        InputError: `folder` already exists, or cannot be written.
    """
    if folder.exists():
        raise InputError(f"{folder}: already exists; delete it or export to another folder")
    with new_folder(folder) as aside:
        save_retriever(aside / "retriever", retriever)
        save_reranker(aside / "reranker", reranker)
        for tower in _tower_folders(aside / "retriever", retriever):
            _add_sentence_transformer(tower, retriever)
        _add_cross_encoder(aside / "reranker", reranker)
        for name, text in cards.items():
            (aside / name / "README.md").write_text(text, encoding="utf-8")


def reranker_differences(model: Reranker) -> list[str]:
    """What CrossEncoder does differently from rocketjax, one line each."""
    text, lines = model.tokenizer.config, []
    if text.pair_truncation != "longest":
        lines.append(
            f"a pair is cut to {text.pair_length} tokens, its longer text first; its query is not "
            f"cut to {text.query_length} tokens beforehand, so longer queries score differently"
        )
    if text.lower_case:
        lines.append("pairs are not lower-cased; give CrossEncoder lower-case texts")
    return lines


def retriever_differences(model: Retriever) -> list[str]:
    """What SentenceTransformer does differently from rocketjax, one line each."""
    text, lines = model.tokenizer.config, []
    # Separate towers have a length each.
    if model.module.shared and text.query_length != text.passage_length:
        lines.append(
            f"a query is cut to {text.passage_length} tokens, like a passage, instead of "
            f"{text.query_length}"
        )
    if model.module.truncate and model.module.normalize:
        lines.append(
            f"vectors are cut to {model.module.truncate} numbers after they were scaled to length "
            "1; give encode normalize_embeddings=True, or compare by cosine, as similarity does"
        )
    if text.title == "segment":
        lines.append(
            "a passage's title and text are one segment, while the retriever was trained with two; "
            "vectors of passages with a title differ"
        )
    return lines


def _tower_folders(folder: Path, model: Retriever) -> Sequence[Path]:
    """The folder of each SentenceTransformer, with the tokenizer in it."""
    if model.module.shared:
        return [folder]
    towers = [folder / "query", folder / "passage"]
    for tower in towers:
        model.tokenizer.save(tower)
    return towers


def _add_sentence_transformer(folder: Path, model: Retriever) -> None:
    """Adds the files from which SentenceTransformer knows pooling, lengths and prompts."""
    module, text = model.module, model.tokenizer.config
    longest = text.query_length if folder.name == "query" else text.passage_length
    names = ["Transformer", "Pooling", *(["Normalize"] if module.normalize else [])]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{name}" if i else "",
            "type": MODULES + name,
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
    limits = {"max_seq_length": longest, "do_lower_case": bool(text.lower_case)}
    write_json(folder / "sentence_bert_config.json", limits)
    prompts = {"query": text.query_prompt or "", "document": text.passage_prompt or ""}
    # The library scales before it cuts, so that only cosines of what is both are our scores.
    name = "cosine" if module.truncate and module.normalize else "dot"
    similarity = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": name}
    if module.truncate:
        similarity["truncate_dim"] = module.truncate
    write_json(folder / "config_sentence_transformers.json", similarity)


def _add_cross_encoder(folder: Path, model: Reranker) -> None:
    """Adds what CrossEncoder must know: the length of a pair, and to apply no sigmoid."""
    activation = {"activation_fn": IDENTITY}  # the default, a sigmoid, would change scores
    _update_json(folder / "config.json", {"sentence_transformers": activation})
    longest = model.tokenizer.config.pair_length
    _update_json(folder / "tokenizer_config.json", {"model_max_length": longest})


def _update_json(path: Path, values: dict[str, Any]) -> None:
    write_json(path, read_object(path) | values)
