"""Figures that matplotlib draws (`pip install genesis-rl[viz]`), without a window system."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from genesis_rl.durable import replace_file


def require_matplotlib() -> tuple[Any, Any]:
    """Returns its modules of figures and of what they are drawn on.

    Raises:
        ValueError: It is not installed.
    """
    try:
        from matplotlib import figure
        from matplotlib.backends import backend_agg
    except ImportError:
        raise ValueError("drawing needs matplotlib: pip install matplotlib") from None
    return figure, backend_agg


def new_figure(width: float, height: float) -> Any:
    """Returns an empty `matplotlib.figure.Figure` of this size in inches."""
    figures, canvas = require_matplotlib()
    figure = figures.Figure(figsize=(width, height), layout="constrained")
    canvas.FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path, dpi: int = 150) -> None:
    """Writes a figure as PNG, whole or not at all; its folder is made if missing."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, file.getvalue())
