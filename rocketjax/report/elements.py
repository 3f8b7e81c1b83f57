"""What the report's page is made of, as its template takes it: captioned pictures and tables."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from rocketjax.report import figures


@dataclass(frozen=True)
class Picture:
    """A figure with its caption, as an SVG that lies in the page itself."""

    title: str
    note: str
    alt: str  # the title and what is written in the figure, for readers who cannot see it
    data: str  # the SVG in base64


@dataclass(frozen=True)
class Table:
    """A table whose first columns hold text and whose others hold numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


def captioned(figure: Figure, title: str, note: str) -> Picture:
    """Draws a figure and puts a caption to it."""
    labels = [text.get_text() for axes in figure.axes for text in axes.texts]
    alt = f"{title}: {', '.join(labels)}" if labels else title
    return Picture(title, note, " ".join(alt.split()), b64encode(figures.svg(figure)).decode())
