"""Weights and a collection on disk, tiny, as users have them."""

import json

import jax
import numpy as np
from tiny import tokens
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rocketjax.config.schema import ComputeConfig, RerankerConfig, RetrieverConfig
from rocketjax.inference.start import pretrained_reranker, pretrained_retriever
from rocketjax.models import convert, pretrained
from rocketjax.models.encoder import Encoder, EncoderConfig
from rocketjax.retrieval.model import Model

TOPICS = ["cat purr whisker", "dog bark leash", "sun ray warm", "sea wave salt", "tree leaf root"]
WORDS = sorted({word for topic in TOPICS for word in topic.split()})


def make_weights(folder, width=32, words=WORDS, segments=False, layers=2):
    """A model folder as transformers writes it: random layers and a word tokenizer.

    `segments`: its tokenizer gives them, as BERT's does.
    """
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", *["token_type_ids"] * segments, "attention_mask"],
    ).save_pretrained(folder)
    config = EncoderConfig(len(vocabulary), width, layers, 4, 64, 64)  # 64 positions
    text = tokens(np.random.default_rng(0), 1)
    params = jax.jit(Encoder(config).init)(jax.random.key(0), text)["params"]
    params = jax.tree.map(lambda x: np.asarray(x) * 2, params)
    tensors = convert.encoder_tensors(params, config)
    pretrained.save_model(folder, config, tensors, "Model")
    return folder


def untrained_pair(weights, text, compute=ComputeConfig()):  # noqa: B008
    """Both models as a run starts them."""
    return Model(
        pretrained_retriever(RetrieverConfig(str(weights)), text, compute),
        pretrained_reranker(RerankerConfig(str(weights)), text, compute, seed=1),
    )


def make_topics(folder):
    """A BEIR folder: a query's words come from its passage's topic."""
    folder.mkdir(exist_ok=True, parents=True)
    rng = np.random.default_rng(0)

    def text(topic):
        return " ".join(rng.choice(topic.split(), 6))

    passages = [{"_id": f"p{i}", "title": "", "text": text(TOPICS[i % 5])} for i in range(60)]
    queries, qrels = [], {"train": [], "dev": []}
    for i in range(60):
        queries.append({"_id": f"q{i}", "text": passages[i]["text"]})
        qrels["train" if i < 40 else "dev"].append(f"q{i}\tp{i}\t1")
    for name, rows in (("corpus", passages), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels").mkdir()
    for split, rows in qrels.items():
        header = "query-id\tcorpus-id\tscore\n"
        (folder / "qrels" / f"{split}.tsv").write_text(header + "\n".join(rows) + "\n")
    return folder


def make_answered(folder):
    """A BEIR folder with answers: passages of five sentences, 20 queries a split.

    Of five queries, three are answered in three windows of three sentences, one in one, one in
    none.
    """
    (folder / "qrels").mkdir(parents=True)
    corpus, queries, answers = [], [], []
    judged = {"train": [], "dev": []}
    for i in range(50):
        sentences = [f"Fact{i}x{j} holds." for j in range(5)]
        corpus.append({"_id": f"p{i}", "title": "T", "text": " ".join(sentences)})
    for i in range(40):
        split, name = ("train", "dev")[i % 2], f"q{i}"
        queries.append({"_id": name, "text": f"what of {i}?"})
        answer = {0: f"Fact{i}x0 holds", 1: "no such text"}.get(i // 2 % 5, f"Fact{i}x2")
        answers.append({"_id": name, "answers": [answer]})
        judged[split].append(f"{name}\tp{i}\t1\n")
    for name, rows in (("corpus", corpus), ("queries", queries), ("answers", answers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, rows in judged.items():
        (folder / "qrels" / f"{name}.tsv").write_text("".join(rows))
    return folder
