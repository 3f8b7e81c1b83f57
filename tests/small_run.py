"""A pipeline run small enough for tests."""

import dataclasses

from rocketjax.config.loss import LossConfig
from rocketjax.config.schema import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    IndexConfig,
    ListConfig,
    OptimizerConfig,
    RerankerConfig,
    RetrieverConfig,
    StageConfig,
    TextConfig,
)


def config(weights, collection, run_dir, **changes):
    optimizer = OptimizerConfig(retriever_lr=3e-3, reranker_lr=3e-3)
    base = Config(
        run_dir=str(run_dir),
        data=DataConfig(collection=str(collection), max_eval_queries=15),
        text=TextConfig(query_length=10, passage_length=10, pair_length=18, title="segment"),
        retriever=RetrieverConfig(str(weights), towers="separate", pooling="cls", normalize=False),
        reranker=RerankerConfig(str(weights)),
        lists=ListConfig(length=4, top_n=30, low=0.6, calibration="sigmoid"),
        index=IndexConfig(shard=25),
        retriever_warmup=StageConfig(steps=2, batch=8, optimizer=optimizer),
        reranker_warmup=StageConfig(steps=3, batch=8, optimizer=optimizer),
        joint=StageConfig(steps=6, batch=8, optimizer=optimizer),
        loss=LossConfig(),
        evaluate=EvaluateConfig(top_k=20, rerank_depth=10, every=3, every_queries=6),
        checkpoint=CheckpointConfig(every=2),
    )
    return dataclasses.replace(base, **changes)
