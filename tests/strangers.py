"""Model folders as other people have them: tiny, random, written with transformers.

A `Folder` says what is in one. `drawn` draws it, `write` writes it; each is a few milliseconds, so
that hundreds can be opened here and by the libraries whose format it is.
"""

import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SENTENCES = (
    "the mean of an array sum sort a list Paris is the capital of France a river in the city "
    "who wrote the film score it runs search query passage model train Berlin Germany naïve café "
    "don't co-op 3.14 東京 数 gradient loss label text long short query: passage: search for"
)
WORDS = SENTENCES.split()
ODD = ["[SEP]", "</s>", "ÉCOLE", "ﬁn", "x" * 120, "\t", "\n", "“", "!?", "日本語", "Straße"]
ARCHITECTURES = ("bert", "ernie", "roberta", "xlm-roberta")
VOCABULARY = 400
POOLINGS = ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@dataclass(frozen=True)
class Folder:
    """What a model folder says; the defaults are what most of them say."""

    kind: str = "bi"  # or "cross"
    architecture: str = "bert"
    lower: bool = True  # the tokenizer's own casing
    named_class: bool = True  # tokenizer_class is the architecture's, not the generic one
    inputs: tuple[str, ...] | None = None  # model_input_names, if the file has them
    activation: str = "gelu"
    tasks: bool = False  # ERNIE's embedding of tasks
    dtype: str = "float32"
    max_length: float | None = None  # of the tokenizer
    side: str | None = None  # at which it truncates
    layout: str = "modules"  # or "plain", "0_Transformer"; "denses": a cross-encoder's head in them
    pooling: tuple[str, ...] = ("mean",)
    new_style: bool = False  # a single field of the pooling, as since version 6
    normalize: bool = True
    dense: bool = False  # another layer after the pooling, or within the head
    limits: dict = field(default_factory=dict)  # sentence_bert_config.json
    settings: dict = field(default_factory=dict)  # config_sentence_transformers.json
    include_prompt: bool = True
    labels: int = 1
    head: bool = True
    activation_fn: str | None = None
    seed: int = 0


def drawn(seed: int, kind: str | None = None) -> Folder:
    """A random folder: most of what it says is common, and some of it rare."""
    rng = np.random.default_rng(seed)

    def one(*choices):
        return choices[rng.integers(len(choices))]

    def rarely(other, usual, share=0.05):
        return other if rng.random() < share else usual

    architecture = one(*ARCHITECTURES)
    # Without a limit the library gives a RoBERTa two tokens more than it has positions for.
    unlimited = 0.03 if "roberta" in architecture else 0.3
    common = {
        "architecture": architecture,
        "lower": one(True, False),
        "named_class": rarely(False, True, 0.25),
        "inputs": rarely(
            one(("input_ids", "attention_mask"), ("input_ids", "token_type_ids", "attention_mask")),
            None,
            0.25,
        ),
        "activation": rarely(one("gelu_new", "relu", "silu", "gelu_pytorch_tanh"), "gelu"),
        "tasks": architecture == "ernie" and rarely(True, False, 0.2),
        "dtype": one("float32", "float32", "float16", "bfloat16"),
        "max_length": rarely(one(None, 1e30), one(16, 62, 62), unlimited),
        "side": rarely(one("left", "right"), None, 0.1),
        "seed": seed,
    }
    if (kind or one("bi", "bi", "cross")) == "cross":
        return Folder(
            kind="cross",
            layout=rarely("denses", one("plain", "modules")),
            dense=one(True, False),
            settings=rarely({"prompts": {"x": "text "}, "default_prompt_name": "x"}, {}, 0.04),
            labels=rarely(one(2, 3), 1),
            head=rarely(False, True, 0.04),
            activation_fn=one(
                None, "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
            ),
            **common,
        )
    prompts = one(
        {},
        {},
        {"query": "query: ", "document": "passage: "},
        {"query": "query: ", "document": "passage: "},
        {"query": "search for ", "document": ""},
        {"query": "query: ", "passage": "passage: "},
        {"other": "text "},
    )
    default = rarely(next(iter(prompts), None), None, 0.2)
    truncated = rarely({"truncate_dim": 8}, {})
    return Folder(
        layout=rarely(one("plain", "0_Transformer"), "modules"),
        pooling=rarely(
            one(*((name,) for name in POOLINGS), ("cls", "mean")), one(("cls",), ("mean",))
        ),
        new_style=one(True, False),
        normalize=one(True, False),
        dense=rarely(True, False, 0.04),
        limits={
            "max_seq_length": one(None, 16, 62),
            "do_lower_case": rarely(True, False, 0.2),
            **rarely({"query_length": 16, "document_length": 62}, {}),
        },
        settings={
            "prompts": prompts,
            "default_prompt_name": default,
            "similarity_fn_name": rarely(one("euclidean", None), one("cosine", "dot"), 0.15),
            **truncated,
        },
        include_prompt=rarely(False, True),
        **common,
    )


def texts(rng, count: int, most: int) -> list[str]:
    """Texts of 1 to `most` words, a few of them odd."""
    found = []
    for _ in range(count):
        words = [WORDS[i] for i in rng.integers(len(WORDS), size=rng.integers(1, most + 1))]
        if rng.random() < 0.4:
            words.insert(rng.integers(len(words) + 1), ODD[rng.integers(len(ODD))])
        if rng.random() < 0.3:
            words = [word.upper() for word in words]
        text = ("  " if rng.random() < 0.1 else " ").join(words)
        found.append(text if text.strip() else "the")
    return found


def write(path: Path, folder: Folder) -> Path:
    """Writes the folder, as transformers and sentence-transformers would."""
    modular = folder.layout != "plain"
    inner = path / "0_Transformer" if folder.layout == "0_Transformer" else path
    inner.mkdir(parents=True)
    _write_transformer(inner, folder)
    _write_tokenizer(inner, folder)
    if modular and folder.kind == "bi":
        _write_bi_encoder(path, inner, folder)
    elif modular:
        _write_cross_encoder(path, folder)
    return path


def _write_transformer(path: Path, folder: Folder) -> None:
    import torch
    import transformers

    roberta = "roberta" in folder.architecture
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64 if roberta else 62,  # 62 tokens
        "type_vocab_size": 1 if roberta else 2,
        "pad_token_id": 1 if roberta else 0,
        "hidden_act": folder.activation,
        "layer_norm_eps": 1e-5 if roberta else 1e-12,
    }
    if folder.tasks:
        fields |= {"use_task_id": True, "task_type_vocab_size": 3}
    if folder.kind == "bi" or folder.layout == "denses":
        kind = transformers.AutoModel
    elif folder.head:
        kind, fields["num_labels"] = transformers.AutoModelForSequenceClassification, folder.labels
    else:
        kind = transformers.AutoModelForMaskedLM
    model = kind.from_config(transformers.AutoConfig.for_model(folder.architecture, **fields))
    generator = torch.Generator().manual_seed(folder.seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1.0)
    if folder.activation_fn:
        model.config.sentence_transformers = {"activation_fn": folder.activation_fn}
    model.to(getattr(torch, folder.dtype)).save_pretrained(path)


_CLASSES = {
    "bert": "BertTokenizer",
    "ernie": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}


def _write_tokenizer(path: Path, folder: Folder) -> None:
    family = _CLASSES[folder.architecture]
    (path / "tokenizer.json").write_text(_tokenizer(family, folder.lower), encoding="utf-8")
    of_bert = family == "BertTokenizer"
    special = (
        {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
        if of_bert
        else {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    )
    fields = {f"{name}_token": token for name, token in special.items()}
    fields["tokenizer_class"] = family if folder.named_class else "PreTrainedTokenizerFast"
    if of_bert:
        fields["do_lower_case"] = folder.lower
    if folder.inputs:
        fields["model_input_names"] = [*folder.inputs]
    if folder.side:
        fields["truncation_side"] = folder.side
    if folder.max_length:
        fields["model_max_length"] = folder.max_length
    (path / "tokenizer_config.json").write_text(json.dumps(fields))


@cache
def _tokenizer(family: str, lower: bool) -> str:
    """A tokenizer.json of the family, trained on the words."""
    corpus = [" ".join(WORDS), " ".join(WORDS).upper(), *WORDS]
    if family == "BertTokenizer":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=lower)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=300, special_tokens=special, show_progress=False
        )
        made.train_from_iterator(corpus, trainer)
        made.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        return made.to_str()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if family == "RobertaTokenizer":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=350,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        made.train_from_iterator(corpus, trainer)
        made.post_processor = processors.RobertaProcessing(
            ("</s>", 2), ("<s>", 0), add_prefix_space=False
        )
        return made.to_str()
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(corpus, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return made.to_str()


def _write_bi_encoder(path: Path, inner: Path, folder: Folder) -> None:
    names = ["Pooling", *["Dense"] * folder.dense, *["Normalize"] * folder.normalize]
    _write_modules(path, "" if inner == path else inner.name, names)
    pooling = {"word_embedding_dimension": 16, "include_prompt": folder.include_prompt}
    if folder.new_style:
        mode = folder.pooling[0] if len(folder.pooling) == 1 else [*folder.pooling]
        pooling = pooling | {"pooling_mode": mode}
    else:
        for name in POOLINGS:
            flag = name if name.endswith("_tokens") or name == "lasttoken" else f"{name}_tokens"
            flag = "cls_token" if name == "cls" else flag
            pooling[f"pooling_mode_{flag}"] = name in folder.pooling
    _write(path / "1_Pooling" / "config.json", pooling)
    _write(inner / "sentence_bert_config.json", folder.limits)
    settings = {"__version__": {"sentence_transformers": "5.0.0"}, **folder.settings}
    _write(path / "config_sentence_transformers.json", settings)
    if folder.dense:
        _write_dense(path / "2_Dense", 16, "activation.Tanh", folder.seed)


def _write_cross_encoder(path: Path, folder: Folder) -> None:
    """As CrossEncoder saves it since version 6."""
    settings = {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None}
    _write(path / "config_sentence_transformers.json", settings | folder.settings)
    if folder.layout != "denses":
        _write_modules(path, "", [])
        _write(path / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
        return
    _write_modules(path, "", ["Pooling", *["Dense"] * folder.dense, "Dense"])
    pooling = {"word_embedding_dimension": 16, "pooling_mode": "cls"}
    _write(path / "1_Pooling" / "config.json", pooling)
    if folder.dense:
        _write_dense(path / "2_Dense", 16, "activation.Tanh", folder.seed)
    _write_dense(path / f"{2 + folder.dense}_Dense", 1, "linear.Identity", folder.seed)


def _write_modules(path: Path, inner: str, names: list[str]) -> None:
    places = [("Transformer", inner), *((name, f"{i}_{name}") for i, name in enumerate(names, 1))]
    package = "sentence_transformers.models."
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": package + name}
        for i, (name, place) in enumerate(places)
    ]
    _write(path / "modules.json", modules)
    for _, place in places[1:]:
        (path / place).mkdir()


def _write_dense(path: Path, outputs: int, activation: str, seed: int) -> None:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(seed)
    fields = {
        "in_features": 16,
        "out_features": outputs,
        "bias": True,
        "activation_function": f"torch.nn.modules.{activation}",
        **({"module_output_name": "scores"} if outputs == 1 else {}),
    }
    _write(path / "config.json", fields)
    tensors = {
        "linear.weight": rng.standard_normal((outputs, 16)).astype(np.float32),
        "linear.bias": rng.standard_normal(outputs).astype(np.float32),
    }
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def _write(path: Path, value) -> None:
    path.write_text(json.dumps(value))


def unexcused(folder: Folder) -> Folder:
    """The same bi-encoder without what is read otherwise here, and said to be."""
    # A prompt stands in for one that is not named "query" or "document".
    prompts = {name: folder.settings["prompts"].get(name, "") for name in ("query", "document")}
    similarity = folder.settings.get("similarity_fn_name")
    plain = folder.layout == "plain"
    if similarity is None or plain:
        similarity = ("cosine", "dot")[folder.seed % 2]
    said = replace(folder, settings={"prompts": prompts, "similarity_fn_name": similarity})
    if not plain:
        return said
    pooling = (("cls",), ("mean",))[folder.seed % 2]
    return replace(said, layout="modules", pooling=pooling, dense=False, include_prompt=True)
