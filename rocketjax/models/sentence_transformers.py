"""What the files of a sentence-transformers folder say: modules, pooling, lengths, prompts.

Nothing is imported by a name that a file gives, and no path leads out of the folder.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rocketjax.models.architecture import Activation
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_json, read_object

_POOLING_FLAGS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
_PASSAGE_PROMPTS = ("document", "passage", "corpus")  # in the order the library tries them
_UNLIMITED = 1_000_000  # tokens; where transformers knows no limit it writes 1e30
_RETRIEVERS = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
_HEADS = (["Dense"], ["Dense", "Dense"], ["Dense", "LayerNorm", "Dense"])
# Classes of torch.nn, made without arguments.
TORCH_ACTIVATIONS: dict[str, Activation] = {
    "Tanh": "tanh",
    "GELU": "gelu",
    "ReLU": "relu",
    "SiLU": "silu",
}
# The names of a Transformer's settings, in the order the library tries them.
TRANSFORMER_SETTINGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
TRANSFORMER_TASKS = ("feature-extraction", "sequence-classification")


class Module(NamedTuple):
    """An entry of modules.json."""

    kind: str  # the name of its class, whatever package that is said to be in
    path: str  # its folder; "" for the root


class Pooled(NamedTuple):
    """How a text's hidden states become its vector."""

    pooling: Literal["cls", "mean"]
    normalize: bool


class HeadModules(NamedTuple):
    """The modules that score a pair behind a cross-encoder's transformer: their folders."""

    pooling: Literal["cls", "mean"]
    unit: Path  # the Dense that scores
    pooler: Path | None = None  # the Dense before it
    activation: Activation = "tanh"  # of the pooler
    norm: Path | None = None  # the LayerNorm between them


class Conventions(NamedTuple):
    """How the model was trained to read texts."""

    longest: int | None  # tokens; None: limited by the number of positions only
    query_prompt: str
    passage_prompt: str
    longest_query: int | None = None  # None: as `longest` says
    longest_passage: int | None = None
    lower_case: bool = False


def read_modules(folder: Path) -> list[Module] | None:
    """Reads modules.json; None if the folder has none.

    Raises:
        InputError: it is damaged, or a module lies outside the folder.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    entries = read_json(path)
    if not isinstance(entries, list):
        raise InputError(f"{path}: expected a list of modules, got {type(entries).__name__}")
    modules = []
    for entry in entries:
        fields = entry if isinstance(entry, dict) else {}
        kind, place = str(fields.get("type")).rpartition(".")[2], fields.get("path", "")
        if not isinstance(place, str) or not re.fullmatch(r"([\w-][\w.-]*)?", place):
            raise InputError(
                f"{path}: path of {kind} is {place!r}; expected the plain name of a folder"
            )
        modules.append(Module(kind, place))
    return modules


def transformer_folder(folder: Path) -> Path:
    """Where config.json, weights and tokenizer lie: in older layouts in 0_Transformer.

    Raises:
        InputError: as `read_modules` does.
    """
    first = (read_modules(folder) or [Module("", "")])[0]
    return folder / first.path if first.kind == "Transformer" else folder


def model_kind(folder: Path) -> str | None:
    """The class of sentence-transformers that the folder says it is of, such as CrossEncoder."""
    settings = _optional_object(folder, "config_sentence_transformers.json")
    kind = settings.get("model_type")
    return kind if isinstance(kind, str) and (folder / "modules.json").is_file() else None


def read_pooling(folder: Path) -> Pooled | None:
    """Reads modules.json and the pooling it names; None if the folder has no modules.json.

    Vectors are scaled to length 1, too, if they are meant to be compared by cosine.

    Raises:
        InputError: a file is damaged, or names something that the bi-encoder does not compute.
    """
    modules = read_modules(folder)
    if modules is None:
        return None
    path, names = folder / "modules.json", [module.kind for module in modules]
    if names not in _RETRIEVERS:
        raise InputError(
            f"{path}: the modules are {', '.join(names) or 'none'}; supported: Transformer, "
            "Pooling and, optionally, Normalize"
        )
    pooling = _pooling_mode(folder / modules[1].path / "config.json", folder)
    normalized = "Normalize" in names
    if normalized:
        file = f"{modules[2].path}/config.json"
        settings = _optional_object(folder, file)
        for name in ("module_input_name", "module_output_name"):
            _only(folder, file, settings, name, ("sentence_embedding",))
    similarity = read_similarity(folder)
    if similarity in ("euclidean", "manhattan") and not (normalized and similarity == "euclidean"):
        raise InputError(
            f"{folder}/config_sentence_transformers.json: similarity_fn_name is {similarity!r}; "
            "supported: dot and cosine, and euclidean with a module Normalize"
        )
    return Pooled(pooling, normalized or similarity == "cosine")


def read_truncation(folder: Path) -> int:
    """How many numbers of a vector are kept (truncate_dim); 0: all of them.

    Raises:
        InputError: the file is damaged, or says something other than a number above 0.
    """
    name = "config_sentence_transformers.json"
    value = _optional_object(folder, name).get("truncate_dim")
    if value is None:
        return 0
    if type(value) is not int or value < 1:
        raise InputError(
            f"{folder / name}: truncate_dim is {value!r}; expected how many numbers of a vector "
            "to keep, at least 1"
        )
    return value


def read_similarity(folder: Path) -> str | None:
    """How vectors are to be compared; None: the folder does not say.

    Raises:
        InputError: the file is damaged, or names none that sentence-transformers knows.
    """
    name = "config_sentence_transformers.json"
    settings = _optional_object(folder, name)
    known = ("cosine", "dot", "euclidean", "manhattan")
    return _only(folder, name, settings, "similarity_fn_name", (None, *known))


def read_conventions(folder: Path) -> Conventions:
    """Reads sentence_bert_config.json, tokenizer_config.json, config_sentence_transformers.json.

    Raises:
        InputError: a file is damaged, or says something that is not supported; the field is named.
    """
    path = folder / "config_sentence_transformers.json"
    settings = _optional_object(folder, path.name)
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(map(_is_text, prompts.values())):
        raise InputError(f"{path}: prompts: expected texts")
    default = str(settings.get("default_prompt_name"))
    query_prompt, passage_prompt = (
        next((prompts[name] for name in (*names, default) if name in prompts), "")
        for names in (("query",), _PASSAGE_PROMPTS)
    )
    if query_prompt or passage_prompt:
        _refuse_unpooled_prompts(folder)
    inner = transformer_folder(folder)
    own = _transformer_settings(inner)
    return Conventions(
        _tokens(own, "max_seq_length") or own_length(inner),
        query_prompt,
        passage_prompt,
        _tokens(own, "query_length"),
        _tokens(own, "document_length"),
        bool(own.get("do_lower_case")),
    )


def plain_prompts(folder: Path) -> tuple[str, str]:
    """The prompts that are named query and document, "" where one is not.

    All that version 6 of the library heeds in encode_query and encode_document; earlier ones also
    take the names passage and corpus, and default_prompt_name.
    """
    prompts = _optional_object(folder, "config_sentence_transformers.json").get("prompts")
    prompts = prompts if isinstance(prompts, dict) else {}
    return str(prompts.get("query") or ""), str(prompts.get("document") or "")


def own_length(folder: Path) -> int | None:
    """The tokenizer's own limit in tokens, which holds without the library's files, too."""
    fields = _optional_object(folder, "tokenizer_config.json")
    return _tokens(fields, "model_max_length") or _tokens(fields, "max_len")


def read_head(folder: Path) -> HeadModules | None:
    """The modules that score a pair in a cross-encoder made of modules; a Dropout is left out.

    None: the head, if there is one, is among the transformer's weights.

    Raises:
        InputError: modules that the cross-encoder does not compute; they are named.
    """
    modules = read_modules(folder) or []
    names = [module.kind for module in modules]
    if model_kind(folder) != "CrossEncoder" or names == ["Transformer"]:
        return None
    own = [module for module in modules[2:] if module.kind != "Dropout"]
    if names[:2] != ["Transformer", "Pooling"] or [module.kind for module in own] not in _HEADS:
        raise InputError(
            f"{folder / 'modules.json'}: the modules are {', '.join(names) or 'none'}; supported "
            "in a cross-encoder: Transformer, or Transformer, Pooling and Dense, or the same with "
            "Dense, or Dense and LayerNorm, before the last"
        )
    pooling = _pooling_mode(folder / modules[1].path / "config.json", folder)
    *inner, unit = [folder / module.path for module in own]
    _activation_of(folder, unit, ("Identity",), "scores")
    if not inner:
        return HeadModules(pooling, unit)
    name = _activation_of(folder, inner[0], tuple(TORCH_ACTIVATIONS), "sentence_embedding")
    norm = inner[1] if len(inner) > 1 else None
    return HeadModules(pooling, unit, inner[0], TORCH_ACTIVATIONS[name], norm)


def read_default_prompt(folder: Path) -> str:
    """The prompt that CrossEncoder puts before every query."""
    settings = _optional_object(folder, "config_sentence_transformers.json")
    prompts = settings.get("prompts")
    if not isinstance(prompts, dict):
        return ""
    return str(prompts.get(str(settings.get("default_prompt_name"))) or "")


def _activation_of(folder: Path, dense: Path, known: Sequence[str], output: str) -> str:
    """A Dense module's activation, one of these; its other fields are checked."""
    file = f"{dense.relative_to(folder)}/config.json"
    fields = read_object(folder / file, folder)
    given = str(fields.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if given.rpartition(".")[2] not in known:
        raise InputError(
            f"{folder / file}: activation_function is {given}; supported here: {', '.join(known)}"
        )
    _only(folder, file, fields, "use_residual", (None, False))
    _only(folder, file, fields, "module_input_name", (None, "sentence_embedding"))
    _only(folder, file, fields, "module_output_name", (output,))
    return given.rpartition(".")[2]


def _only(
    folder: Path, file: str, fields: dict[str, Any], name: str, supported: Sequence[Any]
) -> Any:
    value = fields.get(name)
    if value is not None and value not in supported:
        known = ", ".join(str(choice) for choice in supported if choice is not None)
        raise InputError(f"{folder / file}: {name} is {value!r}; supported: {known}")
    return value


def _refuse_unpooled_prompts(folder: Path) -> None:
    modules = read_modules(folder) or [Module("Pooling", "1_Pooling")]
    for module in modules:
        if module.kind == "Pooling":
            pooling = _optional_object(folder, f"{module.path}/config.json")
            if pooling.get("include_prompt") is False:
                raise InputError(
                    f"{folder / module.path}/config.json: include_prompt is false; supported: true"
                )


def _pooling_mode(path: Path, root: Path) -> Literal["cls", "mean"]:
    """The one pooling mode that a config.json of Pooling sets."""
    fields = read_object(path, root)
    flags = [name for name, value in fields.items() if name.startswith("pooling_mode_") and value]
    for mode, flag in _POOLING_FLAGS.items():
        # Older versions of the library write one flag per mode, newer ones a single field.
        if flags == [flag] or (not flags and fields.get("pooling_mode") in (mode, [mode])):
            return "cls" if mode == "cls" else "mean"
    modes = ", ".join(flags) or f"pooling_mode {fields.get('pooling_mode')!r}"
    raise InputError(f"{path}: {modes}; supported: one of cls and mean")


def _transformer_settings(folder: Path) -> dict[str, Any]:
    """The Transformer module's own settings, by the first of the library's names for them."""
    for name in TRANSFORMER_SETTINGS:
        if fields := _optional_object(folder, name):
            _only(folder, name, fields, "transformer_task", TRANSFORMER_TASKS)
            _only(folder, name, fields, "do_lower_case", (True, False))
            return fields
    return {}


def _tokens(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if isinstance(value, int | float) and 0 < value < _UNLIMITED:
        return int(value)
    return None


def _is_text(value: Any) -> bool:
    """Whether this is valid Unicode: JSON can hold half of a surrogate pair."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _optional_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the folder; empty if there is no such file."""
    path = folder / name
    return read_object(path, folder) if path.is_file() else {}
