"""What a report is made of: captioned pictures and tables."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from rocketjax.report import figures


@dataclass(frozen=True)
class Picture:
    """A figure with its caption."""

    title: str
    note: str
    alt: str  # the title and what is written in the figure, for readers who cannot see it
    figure: Figure

    @property
    def data(self) -> str:
        """The figure as SVG, in base64."""
        return b64encode(figures.svg(self.figure)).decode()


@dataclass(frozen=True)
class Table:
    """A table whose first columns hold text and whose others hold numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


def captioned(figure: Figure, title: str, note: str) -> Picture:
    """Puts a caption to a figure."""
    labels = [text.get_text() for axes in figure.axes for text in axes.texts]
    alt = f"{title}: {', '.join(labels)}" if labels else title
    return Picture(title, note, " ".join(alt.split()), figure)
