"""A matplotlib figure as inline SVG that takes its colours from the page, so that light and dark both work."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-ins that occur nowhere else; the page's style sheet gives each variable a value per theme.
INK, MUTED, GRID = "#010203", "#010204", "#010205"
SERIES = tuple(f"#0102{i:02x}" for i in range(0x10, 0x18))
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)"} | {c: f"var(--s{i})" for i, c in enumerate(SERIES)}
_WIDTH = 4.6
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "phasor", "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9.5,
    "text.color": INK, "axes.labelcolor": MUTED, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "axes.titlelocation": "left",
    "axes.edgecolor": GRID, "xtick.color": GRID, "ytick.color": GRID, "grid.color": GRID, "axes.grid": True, "grid.linewidth": 0.6,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 8,
    "lines.linewidth": 1.6, "figure.constrained_layout.use": True,
}


@contextmanager
def figure(height: float) -> "Iterator[Figure]":
    """A figure in the house style, `height` inches high; narrow, so that its letters stay legible on a phone."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(_WIDTH, height))


def render(chart: "Figure", name: str, title: str) -> str:
    """SVG text with a title for screen readers; call it inside `figure`.

    Args:
        chart: drawn with the colours of this module.
        name: prefix that keeps ids apart from those of other charts on the page.
        title: what the chart shows, in a sentence.
    """
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    chart.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    text = re.sub(r"'DejaVu Sans'(, sans-serif)?", "var(--font)", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    head = f'<svg role="img" aria-labelledby="{name}-title" viewBox=' + re.search(r'viewBox=("[^"]*")', text)[1]  # type: ignore[index]
    label = f'><title id="{name}-title">{escape(title)}</title>'
    return head + ' xmlns:xlink="http://www.w3.org/1999/xlink"' + label + text[text.index(">") + 1 :].strip()
