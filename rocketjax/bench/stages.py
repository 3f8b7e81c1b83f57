"""What the stages of a run have to do: steps of training, texts to encode and score, searches."""

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias, get_args

from rocketjax.config.schema import Config, StageConfig
from rocketjax.mining.augment import lists_per_positive
from rocketjax.mining.rules import scored_depth

Kind: TypeAlias = Literal["query", "passage", "pair"]  # of texts
KINDS: tuple[Kind, ...] = get_args(Kind)


class Work(NamedTuple):
    """What a stage has to do."""

    name: str
    steps: int = 0  # of training
    passages: float = 0  # to encode
    pairs: float = 0  # to score
    searches: float = 0  # queries to search the corpus for


class Trained(NamedTuple):
    """A stage that trains."""

    options: StageConfig
    slots: int  # passages in a list
    kinds: tuple[Kind, ...]  # of texts that its models read


def trained(config: Config) -> dict[str, Trained]:
    """The stages that train."""
    slots = config.lists.length
    return {
        "warm-retriever": Trained(config.retriever_warmup, 1, ("query", "passage")),
        "warm-reranker": Trained(config.reranker_warmup, slots, ("pair",)),
        "joint": Trained(config.joint, slots, ("query", "passage", "pair")),
    }


def stages(config: Config, passages: int, queries: int) -> Iterator[Work]:
    """The stages in their order.

    Mining for the re-ranker's warm-up is retrieval alone. With `lists.refresh`, the corpus is
    encoded again for every further round. For given lists nothing is encoded or mined.

    Args:
        config: of the run.
        passages: in the corpus.
        queries: to evaluate on.
    """
    lists, warm, joint = config.lists, config.reranker_warmup, config.joint
    mines = lists.source == "mined"
    deep = scored_depth(lists)
    scored = deep + 1 if deep else 0
    mined = joint.steps * joint.batch / sum(lists_per_positive(lists))
    judged = queries * config.evaluate.rerank_depth
    if config.evaluate.start:
        yield Work("start", passages=passages, pairs=judged, searches=queries)
    yield Work("warm-retriever", config.retriever_warmup.steps)
    # Without a warm-up, the start's index serves.
    if mines and (config.retriever_warmup.steps or not config.evaluate.start):
        yield Work("encode", passages=passages)
    yield Work("warm-reranker", warm.steps, searches=mines * warm.steps * warm.batch)
    if mines:
        yield Work("mine", pairs=mined * scored, searches=mined)
    if lists.refresh:
        for _ in range(lists.refresh, joint.steps, lists.refresh):
            yield Work("encode again", passages=passages)
    yield Work("joint", joint.steps)
    yield Work("index", passages=passages)
    yield Work("evaluate", pairs=judged, searches=queries)
