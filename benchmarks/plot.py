"""Plain line plots as SVG files: one panel a quantity, points joined, axes from 0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 340, 240, 52, 40, 24


def lines(path: Path, label: str, panels: Mapping[str, Mapping[int, float]]) -> None:
    """Write ``panels`` (name of the quantity: value by position) side by side; ``label`` names the positions."""
    parts = []
    for number, (name, values) in enumerate(panels.items()):
        right, top = max(values), max(values.values()) or 1.0
        inner, tall = _WIDTH - _LEFT - 16, _HEIGHT - _BOTTOM - _TOP

        def at(x: float, y: float, right: int = right, top: float = top) -> str:
            return f"{_LEFT + inner * x / right:.1f},{_TOP + tall * (1 - y / top):.1f}"  # noqa: B023

        points = [at(x, y) for x, y in values.items()]
        parts.append(
            f'<g transform="translate({number * _WIDTH},0)">'
            f'<text x="{_LEFT}" y="16" font-weight="bold">{name}</text>'
            f'<polyline points="{at(0, top)} {at(0, 0)} {at(right, 0)}" fill="none" stroke="#888"/>'
            f'<polyline points="{" ".join(points)}" fill="none" stroke="#2563eb" stroke-width="2"/>'
            + "".join(f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" fill="#2563eb"/>' for p in points)
            + f'<text x="{_LEFT - 6}" y="{_TOP + 4}" text-anchor="end">{top:.4g}</text>'
            f'<text x="{_LEFT - 6}" y="{_HEIGHT - _BOTTOM}" text-anchor="end">0</text>'
            f'<text x="{_LEFT + inner}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="end">{right:,}</text>'
            f'<text x="{_LEFT + inner / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{label}</text></g>'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH * len(panels)}" height="{_HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        + "".join(parts)
        + "</svg>\n"
    )
