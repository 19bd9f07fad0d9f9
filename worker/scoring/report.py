"""The report that lies with a scorer: the figures as JSON, and a picture of them.

The picture is SVG, written by hand: any browser shows it, and nothing has to be installed for it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from html import escape
from typing import Any

from worker.scoring.config import ScorerConfig
from worker.scoring.train import Trained

SIDE = 240
"""Of a panel's square, in pixels."""
LEFT, TOP, GAP = 64, 96, 96
WIDTH = LEFT + 2 * SIDE + GAP + 24
HEIGHT = TOP + SIDE + 64
INK, GREY, BLUE, LIGHT = "#1f2933", "#7b8794", "#2f6fb0", "#b8c4d0"


def report_json(name: str, config: ScorerConfig, trained: Trained, seconds: float) -> bytes:
    """The figures. What cannot be told, because too few prompts are held out, is null."""
    content = {
        "name": name,
        "encoder": config.encoder.model_dump(),
        "models": config.models,
        "prompts": trained.num_prompts._asdict(),
        "epochs": {"run": trained.num_epochs, "kept": asdict(trained.best)},
        "validation": asdict(trained.validation),
        "held_out": asdict(trained.held_out),
        "best_constants": asdict(trained.constants),
        "calibration": [asdict(each) for each in trained.bins],
        "seconds": round(seconds, 1),
    }
    return (json.dumps(_rounded(content), indent=2, ensure_ascii=False) + "\n").encode()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value


def report_svg(name: str, trained: Trained) -> bytes:
    """The picture: how well scores agree with ratings, and how often they name the best model."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12" fill="{INK}">',
        f"<title>Scorer {escape(name)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(24, 28, f"Scorer {name}", size=16),
        _text(24, 48, _summary(trained), fill=GREY),
        *_calibration(trained),
        *_accuracies(trained),
        "</svg>\n",
    ]
    return "\n".join(parts).encode()


def _summary(trained: Trained) -> str:
    ours, theirs = trained.held_out.mae, trained.constants.mae
    count = trained.num_prompts.test
    return (
        f"{count} prompts held out; mean absolute error {ours:.3f}, of the constants {theirs:.3f}"
    )


def _calibration(trained: Trained) -> list[str]:
    """Circles on the diagonal: what was scored s was rated s. Their area tells how many."""
    bottom = TOP + SIDE
    most = max(each.count for each in trained.bins)
    parts = [
        *_frame(LEFT, "Calibration", [f"{tick / 4:g}" for tick in range(5)]),
        _line(LEFT, bottom, LEFT + SIDE, TOP, GREY, dash="4 4"),
        _text(LEFT + SIDE / 2, bottom + 44, "score (mean of a tenth of 0..1)", anchor="middle"),
        f'<g transform="rotate(-90)">{_text(-TOP - SIDE / 2, 20, "rating", anchor="middle")}</g>',
    ]
    for each in trained.bins:
        x, y = LEFT + SIDE * each.score, bottom - SIDE * each.rating
        radius = 3 + 7 * math.sqrt(each.count / most)
        tip = f"{each.count} pairs: scored {each.score:.3f}, rated {each.rating:.3f}"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{BLUE}" fill-opacity="0.7">'
            f"<title>{tip}</title></circle>"
        )
    return parts


def _accuracies(trained: Trained) -> list[str]:
    """A pair of bars each for the best model's share and for pairs: ours, and the constants'."""
    left, bottom, width = LEFT + SIDE + GAP, TOP + SIDE, 44
    ours, theirs = trained.held_out, trained.constants
    parts = _frame(left, "Ranking accuracy", [])
    groups = (
        ("best model named", ours.ranking_accuracy, theirs.ranking_accuracy),
        ("pairs in order", ours.pairwise_accuracy, theirs.pairwise_accuracy),
    )
    for index, (label, of_scorer, of_constants) in enumerate(groups):
        middle = left + SIDE * (1 + 2 * index) / 4
        parts.append(_text(middle, bottom + 18, label, anchor="middle"))
        for x, value, fill in (
            (middle - width - 2, of_scorer, BLUE),
            (middle + 2, of_constants, LIGHT),
        ):
            height = 0.0 if math.isnan(value) else SIDE * value
            shown = "n/a" if math.isnan(value) else f"{value:.2f}"
            parts += [
                f'<rect x="{x:.1f}" y="{bottom - height:.1f}" width="{width}" '
                f'height="{height:.1f}" fill="{fill}"/>',
                _text(x + width / 2, bottom - height - 5, shown, anchor="middle"),
            ]
    for x, fill, label in (
        (left + 20, BLUE, "this scorer"),
        (left + 120, LIGHT, "best constants"),
    ):
        parts.append(f'<rect x="{x}" y="{bottom + 34}" width="12" height="12" fill="{fill}"/>')
        parts.append(_text(x + 18, bottom + 44, label))
    return parts


def _frame(left: float, title: str, ticks: list[str]) -> list[str]:
    """A square with a scale of 0..1 on its left, and one below where there are ticks for it."""
    bottom = TOP + SIDE
    parts = [_text(left + SIDE / 2, TOP - 24, title, anchor="middle", size=13)]
    for tick in range(5):
        y = bottom - SIDE * tick / 4
        parts.append(_line(left, y, left + SIDE, y, "#e4e7eb"))
        parts.append(_text(left - 8, y + 4, f"{tick / 4:g}", anchor="end"))
    for index, label in enumerate(ticks):
        parts.append(_text(left + SIDE * index / 4, bottom + 18, label, anchor="middle"))
    return [
        *parts,
        _line(left, bottom, left + SIDE, bottom, INK),
        _line(left, TOP, left, bottom, INK),
    ]


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{stroke}"{dashed}/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    fill: str = INK,
) -> str:
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{fill}"'
    return f"<text {place}>{escape(text)}</text>"
