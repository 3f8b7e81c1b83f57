"""A run in a notebook's cell: what is shown needs no frame, style or script, so GitHub shows it."""

import re
from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from record import make_record

from rocketjax.report import figures, notebook

ipython = pytest.importorskip("IPython.display", reason="the extra `notebooks` brings IPython")


@pytest.fixture
def cell(monkeypatch):
    """What a cell shows, in order: data by type."""
    shown = []

    class Handle:
        def update(self, data, raw):
            assert raw
            shown.append(("again", data))

    def display(thing, raw=False, display_id=False):
        if not raw:
            kind = "text/html" if isinstance(thing, ipython.HTML) else "text/markdown"
            thing = {kind: thing.data}
        shown.append(("new", thing))
        return Handle() if display_id else None

    monkeypatch.setattr(ipython, "display", display)
    return shown


def picture(data):
    return np.asarray(Image.open(BytesIO(data["image/png"])).convert("RGB"))


def test_a_run_at_work_is_one_figure_drawn_again_in_its_place(tmp_path, cell, monkeypatch):
    folder = make_record(tmp_path / "run")
    live = notebook.LivePictures(folder)
    live.on_step("joint", {"step": 1})
    live.on_step("joint", {"step": 2})  # a moment later
    assert [how for how, _ in cell] == ["new"]
    monkeypatch.setattr(notebook.time, "monotonic", lambda: 1e9)
    live.on_step("joint", {"step": 3})
    assert [how for how, _ in cell] == ["new", "again"]
    first, again = (data for _, data in cell)
    assert first == again  # nothing was logged in between
    for text in ("Losses of joint training: ", "Held-out MRR@10", "KL", "retriever", "re-ranker"):
        assert text in first["text/plain"]
    height, width, _ = picture(first).shape
    assert (height, width) == (900, 1000)  # five pictures in two columns


def test_a_report_shows_tables_and_pictures_that_github_shows_too(tmp_path, cell):
    notebook.show(make_record(tmp_path / "run"))
    kinds = [next(iter(data)) for _, data in cell]
    assert kinds.count("image/png") == 3 and kinds.count("text/html") == 2
    html = "".join(data.get("text/html", "") for _, data in cell)
    assert "tokens per second" in html
    assert not re.search(r"<(iframe|style|script|img)", html)
    assert sum(len(data.get("image/png", b"")) for _, data in cell) < 150_000


def test_a_sheet_keeps_every_figure_whole():
    sizes = [(5, 3), (5, 2), (5, 1)]
    colours = ["#ff0000", "#00ff00", "#0000ff"]
    titled = [
        ("", Figure(figsize=size, facecolor=colour))
        for size, colour in zip(sizes, colours, strict=True)
    ]
    page = np.asarray(Image.open(BytesIO(figures.sheet(titled))).convert("RGB"))
    assert page.shape == (400, 1000, 3)
    assert (page[:300, :500] == (255, 0, 0)).all() and (page[:200, 500:] == (0, 255, 0)).all()
    assert (page[300:, :500] == (0, 0, 255)).all()
    assert (page[200:300, 500:] == 255).all() and (page[300:, 500:] == 255).all()
