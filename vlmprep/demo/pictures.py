"""Pictures drawn from random numbers, each with questions that it answers: shapes, pages of text, charts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from vlmprep.demo.prose import TOPICS

__all__ = ["Picture", "Question", "draw_picture"]

Point: TypeAlias = tuple[float, float]
Colour: TypeAlias = tuple[int, int, int]
DrawShape: TypeAlias = Callable[[ImageDraw.ImageDraw, Point, float, Colour], None]
"""Canvas, centre, radius and colour."""

COLOURS = {
    "red": (208, 48, 44),
    "green": (46, 150, 72),
    "blue": (40, 92, 200),
    "yellow": (240, 200, 40),
    "purple": (132, 60, 160),
    "orange": (236, 130, 30),
    "gray": (130, 134, 140),
}
PAPERS = {"white": (255, 255, 255), "beige": (244, 236, 216), "black": (24, 24, 28)}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
CHART_TITLES = (
    "Visitors of the library",
    "Loaves sold",
    "Ships in the harbour",
    "Rain in millimetres",
    "Trains on time (%)",
    "Honey in kilograms",
)
PRINTED_TOPICS = tuple(topic for topic in TOPICS if all(sentence.isascii() for sentence in topic.sentences))
"""What the default font has letters for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Something that a picture answers."""

    ask: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawing and what can be asked about it."""

    image: Image.Image = field(repr=False)
    questions: tuple[Question, ...]
    is_graphic: bool = False
    """Drawn on a screen, so it is kept as PNG rather than as JPEG."""


def draw_picture(rng: Random, num_siblings: int) -> Picture:
    """Draw one picture of a random kind and size, from thumbnails to about a megapixel.

    Args:
        rng: Decides everything.
        num_siblings: How many pictures the sample has, this one included; more make each one smaller.
    """
    draw: Callable[[Random, float], Picture] = rng.choices([_draw_shapes, _draw_page, _draw_chart], [0.5, 0.25, 0.25])[
        0
    ]
    return draw(rng, 1 / math.sqrt(num_siblings))


def _draw_shapes(rng: Random, scale: float) -> Picture:
    middle = scale * math.exp(rng.uniform(math.log(64), math.log(1000)))
    stretch = math.exp(rng.uniform(-0.9, 0.9))
    height, width = max(32, round(middle / stretch)), max(32, round(middle * stretch))
    paper = rng.choice(list(PAPERS))
    image = Image.new("RGB", (width, height), PAPERS[paper])
    canvas = ImageDraw.Draw(image)
    # One shape a cell, so that none hides another and the count is what the eye sees.
    side = min(max(16.0, math.sqrt(height * width / 12)), height, width)
    rows, columns = int(height / side) or 1, int(width / side) or 1
    counts: Counter[tuple[str, str]] = Counter()
    for cell in rng.sample(range(rows * columns), rng.randint(1, min(9, rows * columns))):
        colour, shape = rng.choice(list(COLOURS)), rng.choice(list(SHAPES))
        centre = ((cell % columns + 0.5) * width / columns, (cell // columns + 0.5) * height / rows)
        SHAPES[shape](canvas, centre, side * rng.uniform(0.25, 0.46), COLOURS[colour])
        counts[colour, shape] += 1
    return Picture(image=image, questions=_shape_questions(rng, counts, paper))


def _shape_questions(rng: Random, counts: Counter[tuple[str, str]], paper: str) -> tuple[Question, ...]:
    groups = [f"{NUMBERS[n]} {colour} {shape}{'s' * (n > 1)}" for (colour, shape), n in sorted(counts.items())]
    listing = " and ".join(filter(None, [", ".join(groups[:-1]), groups[-1]]))
    colour, shape = rng.choice(sorted(counts)) if rng.random() < 0.8 else (rng.choice(list(COLOURS)), "circle")
    number = counts[colour, shape]
    verb = "is" if number == 1 else "are"
    return (
        Question(
            ask=f"How many {colour} {shape}s are there?",
            answer=f"There {verb} {NUMBERS[number]} {colour} {shape}{'s' * (number != 1)}.",
        ),
        Question(ask="Describe the picture.", answer=f"The picture shows {listing} on a {paper} background."),
        Question(ask="How many shapes do you see? Answer with a number.", answer=str(counts.total())),
        Question(ask="Which colour is the background?", answer=f"The background is {paper}."),
    )


def _circle(canvas: ImageDraw.ImageDraw, centre: Point, radius: float, colour: Colour) -> None:
    x, y = centre
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _polygon(num_corners: int, turn: float) -> DrawShape:
    def draw(canvas: ImageDraw.ImageDraw, centre: Point, radius: float, colour: Colour) -> None:
        angles = [math.tau * (corner / num_corners + turn) for corner in range(num_corners)]
        corners = [(centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)) for angle in angles]
        canvas.polygon(corners, fill=colour)

    return draw


SHAPES: dict[str, DrawShape] = {
    "circle": _circle,
    "square": _polygon(4, 1 / 8),
    "triangle": _polygon(3, -1 / 4),
    "hexagon": _polygon(6, 0),
}


def _draw_page(rng: Random, scale: float) -> Picture:
    width = round(scale * rng.uniform(340, 840))
    height = round(width * rng.uniform(0.8, 1.42))
    topic = rng.choice(PRINTED_TOPICS)
    size = max(9, width // rng.randint(18, 34))
    margin, leading = width // 12, round(size * 1.45)
    # Half of the pages are gray scans.
    mode, ink = ("L", 30) if rng.random() < 0.5 else ("RGB", (30, 30, 60))
    image = Image.new(mode, (width, height), "white")
    canvas = ImageDraw.Draw(image)
    canvas.text((margin, margin), topic.title, fill=ink, font=_font(size * 3 // 2))
    top = margin + size * 3
    max_lines = max(1, (height - margin - top) // leading)
    sentences, lines = _fit(topic.sentences, _font(size), width - 2 * margin, max_lines)
    for number, line in enumerate(lines):
        canvas.text((margin, top + number * leading), line, fill=ink, font=_font(size))
    questions = [
        Question(ask="What is the title of this page?", answer=topic.title),
        Question(ask="What does the first line below the title say?", answer=lines[0]),
        Question(ask="How many lines of text are there below the title?", answer=f"There are {len(lines)}."),
    ]
    if sentences:
        questions.append(Question(ask="Read the text below the title aloud.", answer=" ".join(sentences)))
    return Picture(image=image, questions=tuple(questions))


def _fit(
    sentences: tuple[str, ...], font: ImageFont.FreeTypeFont, width: int, max_lines: int
) -> tuple[tuple[str, ...], list[str]]:
    """As many whole sentences as fit, with their lines; the first lines of the first sentence where none does."""
    for count in range(len(sentences), 0, -1):
        lines = _wrap(" ".join(sentences[:count]), font, width)
        if len(lines) <= max_lines:
            return sentences[:count], lines
    return (), lines[:max_lines]


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _draw_chart(rng: Random, scale: float) -> Picture:
    width = round(scale * rng.uniform(320, 1100))
    height = round(width * rng.uniform(0.5, 0.85))
    months = MONTHS[: rng.randint(3, 12)]
    values = dict(zip(months, rng.sample(range(5, 100), len(months)), strict=True))
    title, (colour, paint) = rng.choice(CHART_TITLES), rng.choice(list(COLOURS.items()))
    image = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(image)
    size = max(9, width // 45)
    canvas.text((width / 2, size), title, fill="black", font=_font(size * 3 // 2), anchor="ma")
    left, base, full, step = 3 * size, height - 3 * size, height - 9 * size, (width - 6 * size) / len(months)
    canvas.line([(left, 4 * size), (left, base), (width - left, base)], fill="black", width=max(1, size // 8))
    points = [(left + (at + 0.5) * step, base - full * value / 100) for at, value in enumerate(values.values())]
    kind = rng.choice(["bar", "line"])
    if kind == "line":
        canvas.line(points, fill=paint, width=max(2, size // 4), joint="curve")
    for (x, y), (month, value) in zip(points, values.items(), strict=True):
        if kind == "bar":
            canvas.rectangle((x - 0.35 * step, y, x + 0.35 * step, base), fill=paint)
        canvas.text((x, y - size / 3), str(value), fill="black", font=_font(size), anchor="mb")
        canvas.text((x, base + size / 2), month, fill="black", font=_font(size), anchor="ma")
    return Picture(image=image, questions=_chart_questions(rng, title, kind, colour, values), is_graphic=True)


def _chart_questions(rng: Random, title: str, kind: str, colour: str, values: dict[str, int]) -> tuple[Question, ...]:
    one, other = rng.sample(list(values), 2)
    highest, lowest = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
    difference = abs(values[one] - values[other])
    return (
        Question(ask=f"What is the value in {one}?", answer=f"The value in {one} is {values[one]}."),
        Question(ask="Which month is the highest?", answer=f"{highest}, with {values[highest]}."),
        Question(ask="Which month is the lowest?", answer=f"{lowest}, with {values[lowest]}."),
        Question(
            ask=f"By how much do {one} and {other} differ?",
            answer=f"{one} has {values[one]} and {other} has {values[other]}, so the difference is {difference}.",
        ),
        Question(ask="What does the chart show?", answer=f"A {colour} {kind} chart with the title '{title}'."),
    )


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow's wheels bring FreeType"
    return font
