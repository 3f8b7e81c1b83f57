"""report.html: a run on one page, pictures included, that needs no network.

Whatever a collection, an option or a folder is called shows as text: the template escapes it.
"""

from pathlib import Path

from rocketjax.evaluation.results import HEADS, SHOWN, Report
from rocketjax.report.denoising import denoising_section
from rocketjax.report.distillation import distillation_section
from rocketjax.report.elements import Table
from rocketjax.report.pictures import score_pictures, training_pictures
from rocketjax.report.record import Record, read
from rocketjax.report.render import render
from rocketjax.report.speed import speed_section, stage_times
from rocketjax.report.summary import changed_options, not_drawn, skipped_steps, summary
from rocketjax.runtime.files import write_text


def write(folder: Path) -> Path:
    """Writes report.html of the run in `folder`, which may be unfinished; whole or not at all.

    Raises:
        InputError: no run here, or one of its files is damaged.
    """
    path = folder / "report.html"
    write_text(path, page(read(folder)))
    return path


def page(record: Record) -> str:
    """The HTML page of a run."""
    return render(
        "page.html",
        title=f"{record.config.name}: training report",
        summary=summary(record),
        results=_results(record.report) if record.report else None,
        training=list(training_pictures(record)),
        skipped=list(skipped_steps(record)),
        distillation=distillation_section(record),
        denoising=denoising_section(record),
        scores=score_pictures(record),
        speed=speed_section(record),
        times=stage_times(record),
        not_drawn=list(not_drawn(record)),
        options=changed_options(record.config),
    )


def _results(report: Report) -> Table:
    rows = [row.cells() for row in report.rows if row.measure in SHOWN]
    return Table(HEADS, rows, text_columns=2)
