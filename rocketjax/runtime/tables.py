"""Tables as HTML, for notebooks."""

from collections.abc import Sequence
from html import escape


def html_table(heads: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> str:
    """An HTML table; whatever the cells hold shows as text."""

    def cells(tag: str, row: Sequence[object]) -> str:
        inner = "".join(
            f'<{tag} style="text-align: left">{escape(str(cell))}</{tag}>' for cell in row
        )
        return f"<tr>{inner}</tr>"

    head = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(cells("td", row) for row in rows)
    return f"<table>{head}<thead>{cells('th', heads)}</thead><tbody>{body}</tbody></table>"
