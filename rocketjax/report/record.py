"""What a run has left in its folder until now, read to be drawn; it may be at work still."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import pydantic

from rocketjax.config.options import load
from rocketjax.config.schema import Config
from rocketjax.data.lists import read_candidates
from rocketjax.evaluation import results
from rocketjax.evaluation.results import Report
from rocketjax.mining.calibrate import Calibration
from rocketjax.mining.report import MiningReport, read_report
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_json, valid
from rocketjax.training.journal import read_rows

READ = 8  # files of candidates, of 16,384 scores each: enough for a picture


Columns: TypeAlias = Mapping[str, np.ndarray]  # name -> a value a row, NaN where it has none


Score: TypeAlias = Annotated[float, pydantic.Field(ge=-1e6, le=1e6)]  # can be drawn


Scores: TypeAlias = dict[str, dict[str, list[Score]]]


@dataclass(frozen=True)
class Mined:
    """What one round's mining found. Probabilities are those of the first READ files."""

    report: MiningReport
    texts: list[tuple[str, str]]  # of its examples
    positives: np.ndarray  # probabilities of known positives
    candidates: np.ndarray  # and of what the retriever found beside them


@dataclass(frozen=True)
class Record:
    """A run, as far as it is."""

    config: Config
    seconds: dict[str, float]  # of the stages that are done
    log: dict[str, Columns]  # by stage
    skipped: dict[str, list[int]]  # steps that were not applied, by stage
    timing: dict[str, Columns]
    judged: Columns
    mined: list[Mined]  # by round
    scores: dict[int, Scores]  # of lists, by the joint step at which they were scored
    report: Report | None


def read(folder: Path) -> Record:
    """Raises InputError: no run here, or one of its files is damaged; the file is named."""
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: no run here (no config.yaml); give the folder of a run")
    log = _by_stage(folder / "log.jsonl")
    judged = _by_stage(folder / "judged.jsonl").get("joint", [])
    rounds = [folder, *_numbered(folder / "rounds").values()]
    return Record(
        load(folder / "config.yaml"),
        _seconds(folder / "stages.json"),
        {stage: _columns(rows) for stage, rows in log.items()},
        {stage: [row["step"] for row in rows if "bad" in row] for stage, rows in log.items()},
        _timing(folder / "timing.jsonl"),
        _columns(judged),
        [_mined(path / "lists") for path in rounds if (path / "lists" / "report.json").is_file()],
        {step: _checked(Scores, path) for step, path in _numbered(folder / "scores").items()},
        results.load(folder) if (folder / "report.json").is_file() else None,
    )


def _numbered(folder: Path) -> dict[int, Path]:
    """What lies in a folder by number, in their order."""
    paths = folder.iterdir() if folder.is_dir() else ()
    found = {int(path.stem): path for path in paths if re.fullmatch(r"[0-9]{1,15}", path.stem)}
    return dict(sorted(found.items()))


def _by_stage(path: Path) -> dict[str, list[dict[str, Any]]]:
    stages: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(path):
        stages.setdefault(row["stage"], []).append(row)
    return stages


def _columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """All that is a number in any of the rows, and can be drawn; first of all their steps."""
    numbers = [
        {
            name: value
            for name, value in row.items()
            if isinstance(value, int | float) and abs(value) < 1e30
        }
        for row in rows
    ]
    numbers = [row for row in numbers if "step" in row]
    names = dict.fromkeys(["step", *(name for row in numbers for name in row)])
    return {name: np.array([row.get(name, np.nan) for row in numbers], float) for name in names}


def _timing(path: Path) -> dict[str, Columns]:
    found = {stage: _columns(rows) for stage, rows in _by_stage(path).items()}
    return {stage: rows for stage, rows in found.items() if {"seconds", "tokens"} <= rows.keys()}


def _seconds(path: Path) -> dict[str, float]:
    return _checked(dict[str, pydantic.FiniteFloat], path) if path.is_file() else {}


def _checked(kind: Any, path: Path) -> Any:
    return valid(kind, read_json(path), path, "delete it")


def _mined(folder: Path) -> Mined:
    mined, texts = read_report(folder / "report.json")
    positives, candidates = [], []
    if mined.scale is not None and mined.shift is not None:
        for part in sorted(folder.glob("candidates-*.jsonl"))[:READ]:
            for row in read_candidates(part):
                positives += row.positive_scores
                candidates += row.scores
        probability = Calibration(mined.scale, mined.shift).probability
        return Mined(mined, texts, probability(positives), probability(candidates))
    return Mined(mined, texts, np.array([]), np.array([]))
