"""How a model folder is read: what was asked for, else what its files say, else our defaults.

What is taken without having been asked for, and is not plain from the folder, is noted: a line
for people each. Nothing is read from a tensor here.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rocketjax.config.schema import RetrieverConfig, TextConfig
from rocketjax.inference.settings import SETTINGS, read_settings
from rocketjax.models import pretrained
from rocketjax.models.encoder import EncoderConfig
from rocketjax.models.keys import unheeded
from rocketjax.models.sentence_transformers import (
    Conventions,
    Pooled,
    model_kind,
    own_length,
    plain_prompts,
    read_conventions,
    read_default_prompt,
    read_modules,
    read_pooling,
    read_similarity,
    read_truncation,
    transformer_folder,
)
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_object
from rocketjax.text.tokenizer import Tokenizer

_OPTIONS = (
    "--pooling, --normalize and --text.* set them, in training --retriever.* and --text.*, in "
    "Python the same arguments of open_retriever"
)

# Names of a label that means "not relevant".
_NEGATIVE = re.compile(r"(?i)(not?|non|un|ir|false|neg)(ative)?([\W_]|relevant|$)")


class TextReading(NamedTuple):
    """How texts are read, and the notes on it."""

    text: TextConfig  # nothing is left open
    given: TextConfig  # what was asked for
    notes: tuple[str, ...]


class Pooling(NamedTuple):
    """How vectors are made, and the notes on it."""

    pooling: Literal["cls", "mean"]
    normalize: bool
    truncate: int  # how many of a vector's first numbers are kept; 0: all
    notes: tuple[str, ...]


def tower_folders(root: Path) -> list[Path]:
    """Where config.json and the weights lie: of a retriever with separate towers, query first.

    Raises:
        InputError: rocketjax.json or modules.json is damaged.
    """
    if (root / SETTINGS).is_file() and read_settings(root).towers == "separate":
        return [root / "query", root / "passage"]
    return [transformer_folder(root)]


def laid_over(given: TextConfig, below: Mapping[str, Any]) -> TextConfig:
    """`given`, and what it leaves open as `below` says."""
    own = {name: value for name, value in dataclasses.asdict(given).items() if not _is_open(value)}
    return TextConfig(**{**below, **own})


def read_text(
    folder: Path, given: TextConfig, config: EncoderConfig, kind: Literal["retriever", "reranker"]
) -> TextReading:
    """How a model of this kind reads texts with the weights in `folder`.

    Args:
        folder: the model's root.
        given: what was asked for.
        config: of its encoder.
        kind: what the weights are to become.

    Raises:
        InputError: a file is damaged, or says what is not supported.
    """
    if (folder / SETTINGS).is_file():
        saved = dataclasses.asdict(read_settings(folder).text)
        return TextReading(laid_over(given, saved), given, ())
    inner = transformer_folder(folder)
    of_library = (folder / "modules.json").is_file()
    says = read_conventions(folder) if of_library else Conventions(own_length(inner), "", "")
    longest = min(says.longest or config.max_length, config.max_length)
    theirs = kind == "reranker" and is_cross_encoder(folder)
    below = {
        "query_length": min(says.longest_query or longest, config.max_length),
        "passage_length": min(says.longest_passage or longest, config.max_length),
        "pair_length": longest,
        "title": "joined",
        "query_prompt": says.query_prompt,
        "passage_prompt": says.passage_prompt,
        "pair_truncation": "longest" if theirs else "passage",
        "lower_case": says.lower_case,
    }
    text = laid_over(given, below)
    notes = [unheeded(folder)]
    if theirs:
        cut = "longer text" if text.pair_truncation == "longest" else "passage"
        notes.append(
            f"{folder}: a cross-encoder of others: pairs are cut to {text.pair_length} tokens, the "
            f"{cut} first (--text.pair-truncation), and scores are raw, before the activation that "
            "CrossEncoder applies"
        )
    if theirs and of_library:
        _refuse_default_prompt(folder)
    return TextReading(text, given, tuple(filter(None, notes)))


def _refuse_default_prompt(folder: Path) -> None:
    if prompt := read_default_prompt(folder):
        raise InputError(
            f"{folder}/config_sentence_transformers.json: a cross-encoder with a default prompt, "
            f"{prompt[:40]!r}, which re-rankers here do not read; take it out, and put it before "
            "the queries"
        )


def read_vectors(
    folder: Path, config: RetrieverConfig, reading: TextReading, width: int
) -> Pooling:
    """How the retriever that starts from the weights in `folder` makes its vectors.

    Args:
        folder: the model's root.
        config: what was asked for.
        reading: of texts, for the notes.
        width: how many numbers the encoder's vectors have.

    Raises:
        InputError: a file is damaged, or names something that the bi-encoder does not compute.
    """
    if (folder / SETTINGS).is_file():
        saved = read_settings(folder)
        own = saved.kind == "retriever"
        found = Pooled(saved.pooling, saved.normalize) if own else Pooled("cls", False)
        kept = saved.truncate if config.truncate is None else config.truncate
        return Pooling(*_chosen(config, found), kept, ())
    crossed = is_cross_encoder(folder)
    # Read only if something is left open: otherwise modules.json may be one we do not support.
    is_open = config.pooling == "auto" or config.normalize is None
    found = read_pooling(folder) if is_open and not crossed else None
    chosen = _chosen(config, found or Pooled("cls", False))
    notes = []
    if crossed:
        notes.append(
            f"{folder}: a cross-encoder, taken for a retriever: its head is left out, and its "
            "encoder was not trained to give vectors"
        )
    if crossed or not (folder / "modules.json").is_file():
        notes.append(_plain(folder, config, chosen, reading))
    else:
        notes += _prompted(folder, reading)
    if found and config.normalize is None:
        notes += _compared(folder, found)
    truncate = config.truncate or 0
    if config.truncate is None and not crossed and (folder / "modules.json").is_file():
        truncate = min(read_truncation(folder), width)  # beyond it changes nothing, as there
        notes += _cut(folder, truncate % width)
    return Pooling(*chosen, truncate, tuple(notes))


def head_notes(folder: Path, head: Mapping[str, Any], lone: bool) -> list[str]:
    """The notes on a cross-encoder's head.

    Args:
        folder: the model's root.
        head: the tensors that hold the head.
        lone: whether it has no pooler, though transformers has one in models of this class.

    Raises:
        InputError: of two labels, the first is the positive one by their names.
    """
    if not lone:
        return _two_labels(folder, head)
    return [
        *_two_labels(folder, head),
        f"{folder}: a head without a pooler: its unit reads [CLS] as it is, while transformers "
        "would draw a pooler at random",
    ]


def _two_labels(folder: Path, head: Mapping[str, Any]) -> list[str]:
    """The note on a head of two labels: what its one score is; none with one label."""
    units = (f"{name}.weight" for name in ("classifier.out_proj", "classifier"))
    unit = next((head[name] for name in units if name in head), None)
    if unit is None or unit.shape[:1] != (2,):
        return []
    path = transformer_folder(folder) / "config.json"
    labels = read_object(path).get("id2label")
    labels = labels if isinstance(labels, dict) else {}
    first, second = (str(labels.get(str(i), f"LABEL_{i}")) for i in (0, 1))
    if _NEGATIVE.match(second) and not _NEGATIVE.match(first):
        raise InputError(
            f"{path}: two labels, {first!r} and {second!r}: a score is that of the second against "
            "the first, which would rank the wrong way round; swap them, in id2label and in the "
            "head's rows"
        )
    return [
        f"{folder}: two labels: the score is the logit of {second!r} less that of {first!r}, the "
        "log-odds of the probability that a softmax gives the second"
    ]


def halved(folder: Path, tensors: Mapping[str, Any]) -> list[str]:
    """The note on weights of 16 bits, which transformers 5 computes with as they are."""
    kinds = {str(tensor.dtype) for tensor in tensors.values()} & {"float16", "bfloat16"}
    if not kinds or (folder / SETTINGS).is_file():
        return []
    return [
        f"{folder}: weights are {', '.join(sorted(kinds))}: read as float32, and computed as "
        "--compute.dtype says, where transformers 5 computes in their own type"
    ]


def segments(folder: Path, tokenizer: Tokenizer) -> list[str]:
    """The note on a tokenizer whose class, and no list in the folder, leaves out segments."""
    path = folder / "tokenizer_config.json"
    listed = path.is_file() and "model_input_names" in read_object(path)
    if listed or not tokenizer.drops_segments:
        return []
    return [
        f"{path}: neither model_input_names nor tokenizer_class says that the model is told "
        "segments, so both texts of a pair are of one, as in transformers; if it was trained with "
        'them, add "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]'
    ]


def is_cross_encoder(folder: Path) -> bool:
    """Whether the weights in a folder are a cross-encoder's, by what its files say."""
    kind = model_kind(folder)
    if kind is not None:
        return kind == "CrossEncoder"
    return not (folder / "modules.json").is_file() and pretrained.scores_pairs(
        transformer_folder(folder)
    )


def _is_open(value: Any) -> bool:
    """Whether an option leaves the choice to the folder: None, auto, or a length of 0."""
    return value is None or value == "auto" or (value == 0 and value is not False)


def _chosen(config: RetrieverConfig, found: Pooled) -> Pooled:
    return Pooled(
        found.pooling if config.pooling == "auto" else config.pooling,
        found.normalize if config.normalize is None else config.normalize,
    )


def _plain(folder: Path, config: RetrieverConfig, chosen: Pooled, reading: TextReading) -> str:
    """What is taken where a folder does not say how its vectors are made, and why."""
    text, given = reading.text, reading.given

    def why(values: tuple[Any, ...], otherwise: str) -> str:
        return "as given" if not any(map(_is_open, values)) else otherwise

    lengths = why((given.query_length, given.passage_length), "as given, or what its files allow")
    prompts = why((given.query_prompt, given.passage_prompt), "as given, or none")
    return (
        f"{folder}: no modules.json says how its vectors are made; taken: pooling {chosen.pooling} "
        f"({why((config.pooling,), 'the default')}), normalize {chosen.normalize} "
        f"({why((config.normalize,), 'the default')}), prompts {text.query_prompt!r} and "
        f"{text.passage_prompt!r} ({prompts}), {text.query_length} and {text.passage_length} "
        f"tokens of a query and a passage ({lengths}); SentenceTransformer would take the mean and "
        f"compare by cosine. {_OPTIONS}"
    )


def _prompted(folder: Path, reading: TextReading) -> list[str]:
    """The note on prompts that versions of sentence-transformers do not agree on; else none."""
    text, given = reading.text, reading.given
    query, passage = plain_prompts(folder)
    # What was asked for is nobody's guess.
    known_query = given.query_prompt is not None or text.query_prompt == query
    known_passage = given.passage_prompt is not None or text.passage_prompt == passage
    if known_query and known_passage:
        return []
    return [
        f"{folder}: prompts {text.query_prompt!r} and {text.passage_prompt!r} are taken for "
        "queries and passages, by default_prompt_name or the names passage and corpus, which "
        "encode_query and encode_document do not heed in version 6 of sentence-transformers "
        "(--text.query-prompt and --text.passage-prompt set them)"
    ]


def _cut(folder: Path, truncate: int) -> list[str]:
    """The note on vectors that are cut, and scaled by a module before; else none."""
    if not truncate or all(module.kind != "Normalize" for module in read_modules(folder) or ()):
        return []
    return [
        f"{folder}: truncate_dim is {truncate}: vectors are scaled to length 1 after that cut; "
        "SentenceTransformer.encode scales before it, so that its vectors are shorter than 1 and "
        "their cosines the same (--truncate 0, in training --retriever.truncate 0, keeps them "
        "whole)"
    ]


def _compared(folder: Path, found: Pooled) -> list[str]:
    """Where the folder's modules and its similarity say different things."""
    if any(module.kind == "Normalize" for module in read_modules(folder) or ()):
        return []
    if read_similarity(folder) is None:
        return [
            f"{folder}: no similarity_fn_name and no module Normalize: vectors are compared by dot "
            "product, as they are; sentence-transformers' default is the cosine (--normalize True, "
            "in training --retriever.normalize)"
        ]
    if found.normalize:
        return [
            f"{folder}: similarity_fn_name is cosine: vectors are scaled to length 1, which "
            "SentenceTransformer.encode leaves to the comparison"
        ]
    return []
