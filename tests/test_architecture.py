"""Imports go one way: each module may only import those that stand before it."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "rocketjax"

# Leaves first. A module may import any module of an earlier row.
FLOORS = [
    {"errors", "batch", "progress", "allocator", "preemption"},
    {"distributed"},
    {"files", "lock", "models.attention", "models.layout"},
    {"data.passages"},
    {"data.collection", "data.lines"},
    {"data.store", "data.qrels", "data.splits"},
    {
        "config",
        "models.encoder",
        "metrics",
        "data.demo",
        "data.beir",
        "data.rows",
        "data.answers",
    },
    {"options"},
    {"calibrate", "changes", "data.runs", "data.hub"},
    {"data.msmarco"},
    {"parallel", "retrieval.vectors", "hosts"},
    {
        "models.bi_encoder",
        "models.cross_encoder",
        "models.pretrained",
        "models.pooling",
        "models.conventions",
        "losses",
        "optim",
    },
    {"models.head"},
    {"data.tokenize", "data.collections", "state", "augment", "retrieval.index"},
    {"retrieval.exact", "batching"},
    {"retrieval.scann"},
    {"retrieval.open"},
    {"data.loader", "steps", "inference", "serving.requests", "serving.batcher"},
    {"fit", "model_folder", "corpus", "ranking", "checkpoint", "train_log", "trackers"},
    {"mining", "report", "loading", "journal", "judge", "serving.answers"},
    {"training", "export_folder", "hub_push", "record", "serving.app"},
    {"pictures"},
    {"page", "workspace"},
    {"feeds", "rounds"},
    {"stages"},
    {"pipeline"},
    {"ablation.arms", "ablation.sample", "ablation.bm25", "ablation.ranks", "ablation.recipe"},
    {"ablation.rivals", "ablation.page"},
    {"cli"},
    {"bench.process", "bench.work", "bench.pieces", "bench.flops"},
    {
        "bench.ours",
        "bench.plain_torch",
        "bench.torch_search",
        "bench.faiss_flat",
    },
    {"bench.pair", "bench.rivals", "bench.fact", "bench.joint"},
    {
        "bench.search",
        "bench.mine",
        "bench.memory",
        "bench.feed",
        "bench.tokens",
        "bench.collectives",
        "bench.compiles",
        "bench.table",
        "bench.plain_mining",
    },
    {"bench.facts"},
    {
        "train",
        "encode",
        "mine",
        "search",
        "rerank",
        "evaluate",
        "export",
        "serve",
        "draw",
        "bench.__main__",
        "bench.plan",
        "ablate",
    },  # none imports another
]
OWNERS = {  # a library only one module knows
    "transformers": {"data.tokenize", "bench.plain_torch", "ablation.recipe"},
    "tyro": {"config", "options", "cli"},
    "scann": {"retrieval.scann"},
    "orbax": {"checkpoint"},
    "grain": {"data.loader"},
    "pyarrow": {"data.passages", "data.store"},
    "ijson": {"data.rows"},
    "ir_measures": {"metrics"},
    "safetensors": {"models.pretrained"},
    "starlette": {"serving.app", "serve"},
    "uvicorn": {"serve"},
    "matplotlib": {"pictures", "page", "ablation.page"},
    "tensorboardX": {"trackers"},
    "wandb": {"trackers"},
    # What rocketjax is compared with.
    "torch": {
        "bench.plain_torch",
        "bench.torch_search",
        "bench.plain_mining",
        "ablation.recipe",
    },
    "faiss": {"bench.faiss_flat"},
    "sentence_transformers": {"bench.rivals", "bench.plain_mining", "ablation.recipe"},
    "bm25s": {"ablation.bm25"},
    "huggingface_hub": {"models.pretrained", "hub_push"},
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__"):
            yield name, path


def imports(path):
    """Every imported dotted name of a file, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_go_one_way():
    floor = {name: row for row, names in enumerate(FLOORS) for name in names}
    for name, path in modules():
        assert name in floor, f"{name} stands on no floor: give it one"
        for imported in imports(path):
            for other in floor:
                if imported == f"rocketjax.{other}" or imported.startswith(f"rocketjax.{other}."):
                    assert floor[other] < floor[name], f"{name} imports {other}"


def test_libraries_have_one_owner():
    for name, path in modules():
        for imported in imports(path):
            owners = OWNERS.get(imported.split(".")[0])
            assert owners is None or name in owners, f"{name} imports {imported}"


def test_nothing_loads_pickles():
    for name, path in modules():
        names = {imported.split(".")[0] for imported in imports(path)}
        assert not names & {"pickle", "dill", "joblib"}, name
        assert "allow_pickle=True" not in path.read_text(), name
