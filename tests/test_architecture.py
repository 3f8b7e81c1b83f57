"""The house's rule: a file at the top of rocketjax/ is a command, a folder is a part of the method.

Imports between folders go down only, within a folder they form no cycle, and a library has one
owner.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rocketjax"
COMMANDS = {"train", "encode", "mine", "search", "rerank", "evaluate", "serve"}
COMMANDS |= {"export", "draw", "ablate"}

# From the top down. A folder imports only from those below its own line.
FLOORS = [
    {"ablation", "bench"},
    {"pipeline"},
    {"report"},
    {"mining", "evaluation", "serving", "functional"},
    {"retrieval"},
    {"training", "inference"},
    {"models"},
    {"text", "cli"},
    {"data", "config"},
    {"runtime"},
]
# A library that only some folders or files know.
OWNERS = {
    "transformers": {"text.backend", "bench.rivals", "ablation.recipe"},
    "tyro": {"config", "cli"},
    "scann": {"retrieval.scann"},
    "orbax": {"training.checkpoint"},
    "grain": {"training.loader"},
    "pyarrow": {"data.passages", "data.store", "data.formats.rows"},
    "ijson": {"data.formats.rows"},
    "ir_measures": {"evaluation.metrics"},
    "safetensors": {"models.pretrained"},
    "starlette": {"serving"},
    "uvicorn": {"serving.server"},
    "matplotlib": {"report", "ablation.page"},
    "PIL": {"report.figures"},
    "jinja2": {"report"},
    "tensorboardX": {"training.trackers"},
    "wandb": {"training.trackers"},
    "huggingface_hub": {"models.pretrained", "inference.upload", "report.card"},
    "datasets": {"data.formats.datasets", "ablation.recipe"},
    "ir_datasets": {"data.formats.datasets"},
    # What rocketjax is compared with.
    "torch": {"bench.rivals", "ablation.recipe", "evaluation.mteb"},
    "mteb": {"evaluation.mteb"},
    "faiss": {"bench.rivals"},
    "sentence_transformers": {"bench.rivals", "ablation.recipe"},
    "bm25s": {"retrieval.bm25"},
    "google": {"runtime.cloud"},
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__"):
            yield name, path


def imports(path):
    """Every dotted name a file imports, at any depth; of rocketjax, without that prefix."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path):
    """The modules of rocketjax that a file imports."""
    known = {name for name, _ in modules()}
    for imported in imports(path):
        name = imported.removeprefix("rocketjax.")
        if name != imported:
            yield name if name in known else name.rpartition(".")[0]


def test_a_file_at_the_top_is_a_command_and_a_folder_has_a_floor():
    own = {"__init__", "__main__"}
    assert {p.stem for p in PACKAGE.glob("*.py")} == COMMANDS | own
    folders = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert folders == set().union(*FLOORS)


def test_imports_between_folders_go_down():
    floor = {folder: row for row, folders in enumerate(FLOORS) for folder in folders}
    for name, path in modules():
        folder, _, inner = name.partition(".")
        for other in own_imports(path) if inner else ():
            below = other.partition(".")[0]
            assert below not in COMMANDS, f"{name} imports the command {other}"
            if below and below != folder:
                assert floor[below] > floor[folder], f"{name} imports {other}"


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: set(own_imports(path)) - {name} for name, path in modules()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def test_no_command_imports_another():
    for name, path in modules():
        if name in COMMANDS:
            assert not COMMANDS & set(own_imports(path)), name


def test_libraries_have_one_owner():
    for name, path in modules():
        for imported in imports(path):
            owners = OWNERS.get(imported.split(".")[0])
            allowed = owners is None or any(f"{name}.".startswith(f"{o}.") for o in owners)
            assert allowed, f"{name} imports {imported}"


def test_files_and_signatures_stay_small():
    for name, path in modules():
        text = path.read_text()
        assert len(text.splitlines()) <= 400, f"{name} is longer than 400 lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = len([arg for arg in own if arg.arg not in ("self", "cls")])
                assert count <= 7, f"{name}: {node.name} has {count} parameters"


@pytest.mark.parametrize("module", ["pickle", "dill", "joblib"])
def test_nothing_loads_pickles(module):
    for name, path in modules():
        names = {imported.split(".")[0] for imported in imports(path)}
        assert module not in names, name
        assert "allow_pickle=True" not in path.read_text(), name
