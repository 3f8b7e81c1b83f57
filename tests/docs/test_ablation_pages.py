"""docs/ablation: what its pages show is what `ablate --draw` makes of the tables beside them."""

import re
import shutil
from pathlib import Path

import pytest

from rocketjax import ablate
from rocketjax.ablation.arms import BASE
from rocketjax.ablation.page import MODELS, effects
from rocketjax.ablation.ranks import read_ranks

ROOT = Path(__file__).parents[2]
TABLES = sorted((ROOT / "docs" / "ablation").rglob("*.tsv"))
TITLE = re.compile(
    r"# (?P<name>\w+)(-hidden(?P<hidden>[\d.]+))?(-unlabelled(?P<unlabelled>\d+))?: "
    r"(?P<train>\w+) training queries, (?P<held_out>\w+) held-out queries, "
    r"(?P<passages>\w+) passages, sample (?P<sample_seed>\d+), "
    r"base (?P<base>\w+\.yaml) \(\w+\)(, layers (?P<layers>[\d ]+))?$"
)
# Where the arms of a folder's tables are described; elsewhere in configs/.
CONFIGS = {"gpu": ["configs", "configs/gpu"], "truth": ["configs/truth"]}
# The evidence: collection, where, BM25, the retriever before and after, the re-ranker.
ROW = re.compile(
    r"^\| (SQuAD|MedQuAD) \| [\d,]+ \| (CPU|GPU) \| (.+) \| (.+) \| (.+) \| (.+) \|$", re.M
)
EVIDENCE = ROW.findall((ROOT / "docs" / "evidence.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("table", TABLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_page_shows_what_its_table_holds(table, tmp_path, monkeypatch):
    with table.open(encoding="utf-8") as lines:
        found = TITLE.match(next(lines))
    assert found
    given = {name: value for name, value in found.groupdict().items() if value is not None}
    configs = [ROOT / folder for folder in CONFIGS.get(table.parent.name, ["configs"])]
    options = ["--collection", given.pop("name"), "--configs", *map(str, configs)]
    options += ["--base", str(configs[-1] / given.pop("base"))]
    for name, value in given.items():
        options += [f"--{name.replace('_', '-')}", *value.replace("all", "0").split()]
    for path in table.parent.glob(f"{table.stem}.*"):
        if path.suffix in (".tsv", ".json"):
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert ablate.main([*options, "--results", ".", "--draw"]) == 0
    page = Path(f"{table.stem}.md").read_text(encoding="utf-8")
    assert page == table.with_suffix(".md").read_text(encoding="utf-8")
    # Another matplotlib draws the same words with other strokes.
    drawn, kept = (
        re.findall(r"<!-- (.*?) -->", picture.read_text(encoding="utf-8"))
        for picture in (Path(f"{table.stem}.svg"), table.with_suffix(".svg"))
    )
    assert drawn == kept


def test_the_tables_are_here():
    assert len(TABLES) >= 6


@pytest.mark.parametrize("row", EVIDENCE, ids=lambda row: f"{row[0]}-{row[1]}")
def test_the_evidence_says_what_the_tables_hold(row):
    name, where, *said = row
    table = ROOT / "docs/ablation" / ("gpu" if where == "GPU" else "whole") / f"{name.lower()}.tsv"
    title = table.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    ranks, _ = read_ranks(table, title, {})
    retriever, reranker = (effects(ranks, model, ["bm25", "start", BASE]) for model in MODELS)
    found = [retriever["bm25"], retriever.get("start"), retriever[BASE], reranker[BASE]]
    if found[1] is None:  # the runs on a GPU judged no start in the table's way
        del found[1], said[1]
    shown = [
        f"{one.mean:.3f}" + (f" ± {one.spread:.3f}" if where == "GPU" and i else "")
        for i, one in enumerate(found)
    ]
    assert said == shown


def test_every_row_of_the_evidence_is_read():
    assert len(EVIDENCE) == 4
