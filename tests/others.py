"""Tiny random model folders as transformers and sentence-transformers write them."""

import json

import pytest

WORDS = ["cat", "Cat", "dog", "Dog", "sun", "sea", "tree", "purr", "bark", "wave", "leaf", "salt"]
WORDS += ["##s", "##ing", ":", "query", "passage", ".", "the", "of", "a", "is", "what", "Sun"]
MODULES = "sentence_transformers.models."
TEXTS = ["the Cat is purring", "what is a Dog", "sea waves of salt " * 6, "leaf"]


# What is in the config of other families, and whether their tokenizers give segments.
FAMILIES = {
    "ModernBert": {"local_attention": 8, "global_attn_every_n_layers": 2, "pad_token_id": 0},
    "DistilBert": {},
    "Electra": {"embedding_size": 16},
    "MPNet": {},
    "Camembert": {"type_vocab_size": 1},
    "NomicBert": {},
    "Gte": {"type_vocab_size": 0, "pad_token_id": 0},
    "DebertaV2": {
        "relative_attention": True,
        "pos_att_type": "p2c|c2p",
        "share_att_key": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    },
}
_SEGMENTS = ("Bert", "Ernie", "Electra", "NomicBert")


def pieces(family):
    """A vocabulary as sentencepiece has it: "▁" begins a word."""
    special = ("<s>", "<pad>", "</s>", "<unk>")
    if family == "DebertaV2":
        special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    found = [(piece, 0.0) for piece in special]
    found += [("▁" * (not word.startswith("##")) + word.strip("#"), -2.0) for word in WORDS]
    return found + [(letter, -9.0) for letter in "▁bcdefghijklmnopqrtuvwxyz"]


def bert(folder, labels=None, positions=64, lower=False, family="Bert", fields=(), **tokenizer):
    """A BERT of two layers of 32, with a head of so many labels, and its WordPiece tokenizer.

    `family`: of its class in transformers. RoBERTa's positions begin after its padding's id.
    `fields`: more of its config.
    """
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    if not hasattr(transformers, f"{family}Config"):
        pytest.skip(f"this transformers has no {family}")
    roberta = "Roberta" in family or family in ("MPNet", "Camembert")
    special = ["[UNK]", "[PAD]"] if roberta else ["[PAD]", "[UNK]"]
    vocabulary = [*special, "[CLS]", "[SEP]", "[MASK]", *WORDS]
    differs = {"type_vocab_size": 1} if "Roberta" in family else {}
    differs |= ({"pad_token_id": 1} if roberta else {}) | FAMILIES.get(family, {}) | dict(fields)
    if family not in _SEGMENTS:
        tokenizer = {"model_input_names": ["input_ids", "attention_mask"]} | tokenizer
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    special = dict.fromkeys(("bos_token_id", "eos_token_id"))
    config = getattr(transformers, f"{family}Config")(
        **special,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        **{"hidden_dim" if family == "DistilBert" else "intermediate_size": 64},
        max_position_embeddings=positions + 2 * roberta,
        **{"vocab_size": len(vocabulary), **differs},
        **({} if labels is None else {"num_labels": labels}),
    )
    kind = "Model" if labels is None else "ForSequenceClassification"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = getattr(transformers, family + kind)(config).eval()
        for parameter in model.parameters():
            parameter.data += (0.3 if parameter.ndim > 1 else 0.1) * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    transformers.BertTokenizer(
        vocab=str(folder / "vocab.txt"), do_lower_case=lower, **tokenizer
    ).save_pretrained(folder)
    return folder


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def edit(path, **values):
    """Sets keys of a JSON file; None takes one out."""
    fields = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))


def modular(folder, names=("Pooling",), pooling="mean", inner="", **settings):
    """The files that make a SentenceTransformer of weights; `settings` go into its own file."""
    modules = [{"idx": 0, "name": "0", "path": inner, "type": MODULES + "Transformer"}]
    for i, name in enumerate(names, 1):
        modules.append({"idx": i, "name": str(i), "path": f"{i}_{name}", "type": MODULES + name})
        (folder / f"{i}_{name}").mkdir(exist_ok=True)
    write(folder / "modules.json", modules)
    if "Pooling" in names:
        fields = {"word_embedding_dimension": 32, "pooling_mode": pooling}
        write(folder / "1_Pooling" / "config.json", fields)
    write(folder / "config_sentence_transformers.json", settings)
    return folder


def dense(folder, outputs, activation):
    """A Dense module with random weights."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(outputs)
    tensors = {
        "linear.weight": torch.randn(outputs, 32, generator=generator),
        "linear.bias": torch.randn(outputs, generator=generator),
    }
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    fields = {
        "in_features": 32,
        "out_features": outputs,
        "bias": True,
        "activation_function": f"torch.nn.modules.{activation}",
        "module_input_name": "sentence_embedding",
        "module_output_name": "scores" if outputs == 1 else None,
    }
    write(folder / "config.json", {k: v for k, v in fields.items() if v is not None})
