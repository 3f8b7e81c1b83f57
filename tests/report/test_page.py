"""The page of a run: as far as the run is, and whatever its texts say."""

import dataclasses
import json
import re
import xml.etree.ElementTree
from base64 import b64decode
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from record import lines, make_record

from rocketjax import draw
from rocketjax.config.loss import LossConfig
from rocketjax.config.options import dump, load
from rocketjax.config.schema import (
    CheckpointConfig,
    Config,
    ListConfig,
    RetrieverConfig,
)
from rocketjax.evaluation import results as report
from rocketjax.report import drawing
from rocketjax.report import figures as pictures
from rocketjax.report.page import write
from rocketjax.report.record import read
from rocketjax.runtime.errors import InputError

EVIL = "<script>alert('1')</script>\"><img src=x onerror=alert(2)> $\\frac{1}$ & co"


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures stay empty, for tests of the words around them: drawing ten takes a second."""
    monkeypatch.setattr(pictures, "svg", lambda figure: b"<svg/>")


@pytest.fixture(scope="module")
def plain_page(tmp_path_factory):
    """The page of make_record's run, drawn once for all tests that only read it."""
    return write(make_record(tmp_path_factory.mktemp("runs") / "run")).read_text()


def test_a_run_at_work_is_drawn_as_far_as_it_is(tmp_path):
    folder = make_record(tmp_path / "run")
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"stage": "joint", "st')  # being written
    page = write(folder).read_text()
    assert page.count("<figure>") == 10
    assert "is not finished. Finished stages: start, mine. joint has made 5 of 24 steps." in page
    assert "joint: non-finite steps skipped: 1 (1)" in page
    assert "Of 4 candidates that the re-ranker scored, 1 (25.0%)" in page
    assert re.search(r"<td class=\"text\">joint</td><td>5</td><td>0.5 s</td><td>1,000</td>", page)
    assert list(folder.glob(".report*")) == []


def test_a_run_that_has_only_begun_is_drawn(tmp_path):
    (tmp_path / "config.yaml").write_text(dump(Config()))
    assert draw.main(["--run", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Finished stages: none." in page and "<figure>" not in page and "Not drawn" not in page


@pytest.mark.parametrize(("every", "why"), [(0, "evaluate.every is 0"), (9, "no passages were")])
def test_what_is_not_drawn_is_said_with_its_reason(undrawn, tmp_path, every, why):
    folder = make_record(tmp_path / "run")
    config = load(folder / "config.yaml")
    changed = dataclasses.replace(config.evaluate, every=every)
    (folder / "config.yaml").write_text(dump(dataclasses.replace(config, evaluate=changed)))
    assert "Not drawn" not in write(folder).read_text()
    (folder / "judged.jsonl").unlink()
    told = f"Not drawn: held-out measures during training, scores of positives and negatives ({why}"
    assert told in write(folder).read_text()


def test_the_table_has_both_models_before_and_after(undrawn, tmp_path):
    folder = make_record(tmp_path / "run")
    made = [
        report.Row("retriever", "MRR@10", 0.5, 0.6, 0.0002),
        report.Row("reranker", "MRR@10", None, 0.7, None),
    ]
    report.save(report.Report(str(folder), 30, made), folder)
    page = write(folder).read_text()
    assert "<td>0.500</td><td>0.600</td><td>+0.100</td><td>&lt; 0.001</td>" in page
    assert "MRR@10 went from 0.500 to 0.600 (p &lt; 0.001) and the re-ranker" in page
    assert "MRR@10 is 0.700." in page and "not finished" not in page


def test_what_distillation_has_to_work_with(tmp_path):
    """The first and the last tenth of the steps, and the pool's first and last judgement."""
    folder = make_record(tmp_path / "run")
    assert "What distillation" not in write(folder).read_text()  # a log without the measures
    log = [
        {
            "stage": "joint",
            "step": step,
            "teacher_entropy": 1.5 if step < 15 else 0.25,
            "uniform_entropy": 2.08,
            "teacher_disagrees": 0.4 if step < 15 else 0.05,
            "distill_cosine": -0.5 if step < 15 else 0.9,
            "retriever_cosine": 0.98,
            "retriever_clipped": 0.0 if step < 15 else 1.0,
            "reranker_clipped": 1.0,
        }
        for step in range(30)
    ]
    lines(folder / "log.jsonl", log)
    page = unescape(write(folder).read_text())
    for cells in (
        ("Teacher's entropy, nats", "1.50", "0.25"),
        ("Lists where the teacher's first is not the label", "40.0%", "5.0%"),
        ("Cosine of the distillation's gradient with the label's", "-0.50", "0.90"),
        ("Steps in which the retriever's gradient is clipped", "0.0%", "100.0%"),
        ("Steps in which the re-ranker's gradient is clipped", "100.0%", "100.0%"),
        ("Re-ranker's lead over the retriever on the pool, MRR@10", "+0.200", "+0.200"),
    ):
        row = f'<td class="text">{cells[0]}</td><td>{cells[1]}</td><td>{cells[2]}</td>'
        assert row in page, cells
        assert f"<b>{cells[0]}.</b>" in page
    assert "shortens the other's step too" in page
    drawn = written(page)
    assert any("equal scores 2.08" in text for text in drawn["How certain the teacher is"])
    assert any("both 0.98" in text for text in drawn["What distillation adds to the label"])
    config = load(folder / "config.yaml")
    by_model = dataclasses.replace(config.joint.optimizer, clip_by="model")
    joint = dataclasses.replace(config.joint, optimizer=by_model)
    (folder / "config.yaml").write_text(dump(dataclasses.replace(config, joint=joint)))
    assert "The norm is each model's own" in unescape(write(folder).read_text())


class Tags(HTMLParser):
    """The names and attributes of all tags, and the texts between."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.texts = set(), set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.texts.append(data)


def parsed(folder):
    parser = Tags()
    parser.feed(write(folder).read_text())
    return parser


def test_texts_stay_texts(tmp_path):
    plain, evil = (
        parsed(make_record(tmp_path / name, text=text))
        for name, text in (("plain", "text"), ("evil", EVIL))
    )
    assert evil.tags == plain.tags and evil.attributes == plain.attributes
    assert not evil.tags & {"script", "a", "link", "iframe", "object"}
    text = "".join(evil.texts)
    assert text.count(EVIL) >= 4  # title, heading, summary, examples


def test_pictures_are_in_the_page_and_ask_for_nothing(plain_page):
    page = plain_page
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert len(found) == page.count("<img ") == 10
    for data in found:
        root = xml.etree.ElementTree.fromstring(b64decode(data))
        assert root.tag.endswith("svg")
        links = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
        assert all(link.startswith("#") for link in links)
    assert "http" not in re.sub(r"base64,[^\"]+|http-equiv", "", page)


def written(page):
    """What is written in each picture, by its title: a comment over the letters' outlines."""
    found = re.findall(r'<img alt="([^"]+)" src="data:image/svg\+xml;base64,([^"]+)"', page)
    return {
        alt.partition(": ")[0]: set(re.findall("<!-- (.*?) -->", b64decode(data).decode()))
        for alt, data in found
    }


def test_steps_before_which_lists_were_mined_anew_are_marked(plain_page, tmp_path):
    folder = make_record(tmp_path / "run")
    said = "dashed: lists mined again"
    assert not any(said in words for words in written(plain_page).values())
    (folder / "config.yaml").write_text(dump(Config(lists=ListConfig(refresh=2))))
    marked = [title for title, words in written(write(folder).read_text()).items() if said in words]
    assert len(marked) == 5  # losses, KL, positive first, two measures
    (folder / "config.yaml").write_text(dump(Config(lists=ListConfig(refresh=5))))  # not yet
    assert not any(said in words for words in written(write(folder).read_text()).values())


LABELS = {  # what make_record says of each
    "Losses of joint training": {"total loss 0.1", "retriever 0.2", "re-ranker 0.3"},
    "How far apart the two models are": {"KL 0.4"},
    "Positive ranked first": {"retriever 50%", "re-ranker 60%"},
    "Held-out MRR@10 during training": {"retriever 0.4", "re-ranker 0.6"},
    "Held-out nDCG@10 during training": {"retriever 0.5", "re-ranker 0.7"},
    "Re-ranker probabilities during mining": {"candidates (2)", "known positives (1)"},
    "Scores of the retriever": {
        *("positives (2)", "undenoised negatives (3)", "denoised negatives (1)"),
    },
    "Scores of the re-ranker": {
        *("positives (4)", "undenoised negatives (5)", "denoised negatives (6)"),
    },
}


def test_every_line_and_outline_has_its_own_label(plain_page):
    texts = written(plain_page)
    for title, labels in LABELS.items():
        assert labels <= texts[title], title
    assert 'alt="How far apart the two models are: KL 0.4"' in plain_page  # for who cannot see it


@pytest.mark.parametrize(
    ("loss", "drawn"),
    [
        (LossConfig(), True),
        (LossConfig(retriever_negatives="batch"), False),  # over more than a list
        (LossConfig(preset="custom", reranker_loss="pointwise"), False),  # over each passage
    ],
)
def test_what_guessing_costs_is_drawn_where_losses_are_over_a_list(tmp_path, loss, drawn):
    folder = make_record(tmp_path / "run")
    (folder / "config.yaml").write_text(dump(Config(loss=loss)))
    page = write(folder).read_text()
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert any(b"guessing" in b64decode(data) for data in found) is drawn


@pytest.mark.parametrize(
    ("loss", "own", "distilled"),
    [
        (LossConfig(), "list", "mean per list"),
        (LossConfig(preset="paper"), "list", "sum over a step's lists"),
        (LossConfig(preset="released"), "list", "mean per passage"),
        (LossConfig(preset="custom", reranker_loss="pointwise"), "passage", "mean per list"),
    ],
)
def test_losses_are_in_nats_and_the_captions_say_of_what(tmp_path, loss, own, distilled):
    folder = make_record(tmp_path / "run")
    warm = [{"stage": s, "step": 0, "loss": 1.0} for s in ("warm-retriever", "warm-reranker")]
    with (folder / "log.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in warm))
    (folder / "config.yaml").write_text(dump(Config(loss=loss)))
    page = write(folder).read_text()
    texts, said = written(page), unescape(page)
    for title in ("Losses of joint training", "Loss of warm-retriever", "Loss of warm-reranker"):
        assert "nats" in texts[title] and "nats per list" not in texts[title]
    assert (
        f"Loss of warm-reranker.</b> One model alone, before joint training: mean per {own}."
        in said
    )
    assert f"per {own} for the re-ranker), and the total loss: " in said
    assert f" distillation ({distilled})." in said


def test_without_denoised_lists_the_page_does_not_say_what_they_lack(undrawn, tmp_path):
    folder = make_record(tmp_path / "run")
    assert "have a probability of 0.5 or more" in write(folder).read_text()
    (folder / "config.yaml").write_text(dump(Config(lists=ListConfig(denoised=0.0))))
    page = write(folder).read_text()
    assert "scored 4 candidates. No list is denoised." in page
    assert "have a probability of" not in page and "False negatives removed" not in page


BEST = (
    " Not drawn, but in the table: in the end the best checkpoint is taken (checkpoint.take best)"
)
KEPT = "the retriever is averaged with its start (retriever.keep 0.5)"


@pytest.mark.parametrize(
    ("keep", "take", "retriever", "reranker"),
    [
        (0.0, "last", "", ""),
        (0.5, "last", f" Not drawn, but in the table: in the end {KEPT}.", ""),
        (0.0, "best", f"{BEST}.", f"{BEST}."),
        (0.5, "best", f"{BEST} and {KEPT}.", f"{BEST}."),
    ],
)
def test_captions_say_where_the_table_is_not_of_what_is_drawn(
    undrawn, tmp_path, keep, take, retriever, reranker
):
    folder = make_record(tmp_path / "run")
    config = Config(retriever=RetrieverConfig(keep=keep), checkpoint=CheckpointConfig(take=take))
    (folder / "config.yaml").write_text(dump(config))
    page = unescape(write(folder).read_text())
    notes = dict(re.findall(r"<figcaption><b>(.*?)\.</b>(.*?)</figcaption>", page))
    assert notes["Held-out MRR@10 during training"].endswith(f"not with the table.{retriever}")
    assert notes["Scores of the retriever"].endswith(f"both kinds of lists.{retriever}")
    assert notes["Scores of the re-ranker"].endswith(f"both kinds of lists.{reranker}")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("scores/0.json", "[]", r"scores/0\.json: damaged"),
        ("lists/report.json", '{"scored": 1}', r"lists/report\.json: damaged: unlabelled|queries"),
        ("log.jsonl", "{}\n", r"log\.jsonl:1: no step"),
        ("stages.json", '{"joint": "long"}', r"stages\.json: damaged: joint"),
    ],
)
def test_a_damaged_file_is_named_and_the_last_page_stays(
    undrawn, tmp_path, name, text, message, capsys
):
    folder = make_record(tmp_path / "run")
    before = write(folder).read_text()
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=message):
        write(folder)
    assert (folder / "report.html").read_text() == before
    assert draw.main(["--run", str(folder)]) == 2
    assert draw.main(["--run", str(tmp_path)]) == 2
    assert "no run here" in capsys.readouterr().err.replace("\n", "")


def test_a_running_mean_follows_and_passes_over_gaps():
    np.testing.assert_allclose(drawing.smoothed(np.full(30, 2.0)), 2.0)
    values = np.array([1.0, np.nan, 1.0, 3.0])
    mean = drawing.smoothed(values)
    assert mean[1] == 1.0 and 1.0 < mean[3] < 2.0
    assert np.isnan(drawing.smoothed(np.array([np.nan, 1.0]))[0])


def test_labels_keep_apart_and_within():
    for places in ([0.5, 0.51, 0.52], [0.99, 1.0], [0.2, 0.8], [1.0]):
        moved = drawing.spread(places, 0.1)
        assert np.all(np.diff(moved) >= 0.1 - 1e-9) and max(moved) <= 1
        assert np.all(np.abs(np.subtract(moved, places)) <= 0.2 + 1e-9)
    assert drawing.spread([0.2, 0.8], 0.1) == [0.2, 0.8]


def test_a_long_log_makes_a_small_page(tmp_path):
    record = read(make_record(tmp_path / "run", steps=20_000))
    drawn = pictures.svg(pictures.divergence(record.log["joint"]))
    assert len(drawn) < 200_000
