"""The files of a run's folder, read for its report; the run may still be in progress."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import pydantic

from rocketjax.config.options import load_own
from rocketjax.config.schema import Config
from rocketjax.data.lists import read_candidates
from rocketjax.evaluation import results
from rocketjax.evaluation.results import Report
from rocketjax.mining.calibrate import Calibration
from rocketjax.mining.report import MiningReport, read_report
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_json, valid
from rocketjax.training.journal import read_rows

CANDIDATE_FILES = 8  # of 16,384 scores each: enough for a histogram
Columns: TypeAlias = Mapping[str, np.ndarray]  # name -> a value per row, NaN where it has none
Score: TypeAlias = Annotated[float, pydantic.Field(ge=-1e6, le=1e6)]  # can be drawn
Scores: TypeAlias = dict[str, dict[str, list[Score]]]


@dataclass(frozen=True)
class Mined:
    """What one round mined, with the re-ranker's probabilities of the first CANDIDATE_FILES."""

    report: MiningReport
    texts: list[tuple[str, str]]  # query and passage of each of the report's examples
    positives: np.ndarray  # probabilities of known positives
    candidates: np.ndarray  # probabilities of the other passages that the retriever ranked


@dataclass(frozen=True)
class Record:
    """A run so far."""

    config: Config
    seconds: dict[str, float]  # by finished stage
    log: dict[str, Columns]  # by stage
    skipped: dict[str, list[int]]  # steps that were not applied, by stage
    timing: dict[str, Columns]  # by stage
    held_out: Columns  # both models' measures during joint training
    mined: list[Mined]  # by round
    scores: dict[int, Scores]  # of lists, by the joint step at which they were scored
    report: Report | None  # None: not evaluated yet


def read(folder: Path) -> Record:
    """Reads a run's folder.

    Raises:
        InputError: no run here, or one of its files is damaged; the message names the file.
    """
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: no run here (no config.yaml); give the folder of a run")
    log = _by_stage(folder / "log.jsonl")
    held_out = _by_stage(folder / "judged.jsonl").get("joint", [])
    rounds = [folder, *_numbered(folder / "rounds").values()]
    return Record(
        config=load_own(folder / "config.yaml"),
        seconds=_seconds(folder / "stages.json"),
        log={stage: _columns(rows) for stage, rows in log.items()},
        skipped={stage: _skipped(rows) for stage, rows in log.items()},
        timing=_timing(folder / "timing.jsonl"),
        held_out=_columns(held_out),
        mined=[_mined(path / "lists") for path in rounds if _has_report(path / "lists")],
        scores={
            step: _checked(Scores, path) for step, path in _numbered(folder / "scores").items()
        },
        report=results.load(folder) if _has_report(folder) else None,
    )


def _numbered(folder: Path) -> dict[int, Path]:
    """The files and folders whose names are numbers, in their order."""
    paths = folder.iterdir() if folder.is_dir() else ()
    by_number = {int(path.stem): path for path in paths if re.fullmatch(r"[0-9]{1,15}", path.stem)}
    return dict(sorted(by_number.items()))


def _has_report(folder: Path) -> bool:
    return (folder / "report.json").is_file()


def _by_stage(path: Path) -> dict[str, list[dict[str, Any]]]:
    stages: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(path):
        stages.setdefault(row["stage"], []).append(row)
    return stages


def _skipped(rows: list[dict[str, Any]]) -> list[int]:
    return [row["step"] for row in rows if "bad" in row]


def _columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The steps, and everything else that is a number in any of the rows and can be drawn."""
    numbers = [{name: value for name, value in row.items() if _drawable(value)} for row in rows]
    numbers = [row for row in numbers if "step" in row]
    names = dict.fromkeys(["step", *(name for row in numbers for name in row)])
    return {name: np.array([row.get(name, np.nan) for row in numbers], float) for name in names}


def _drawable(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e30


def _timing(path: Path) -> dict[str, Columns]:
    stages = {stage: _columns(rows) for stage, rows in _by_stage(path).items()}
    return {stage: rows for stage, rows in stages.items() if {"seconds", "tokens"} <= rows.keys()}


def _seconds(path: Path) -> dict[str, float]:
    return _checked(dict[str, pydantic.FiniteFloat], path) if path.is_file() else {}


def _checked(kind: Any, path: Path) -> Any:
    return valid(kind, read_json(path), path, "delete it")


def _mined(folder: Path) -> Mined:
    report, texts = read_report(folder / "report.json")
    if report.scale is None or report.shift is None:  # the re-ranker scored nothing
        return Mined(report, texts, np.array([]), np.array([]))
    positives, candidates = [], []
    for part in sorted(folder.glob("candidates-*.jsonl"))[:CANDIDATE_FILES]:
        for row in read_candidates(part):
            positives += row.positive_scores
            candidates += row.scores
    probability = Calibration(report.scale, report.shift).probability
    return Mined(report, texts, probability(positives), probability(candidates))
