from __future__ import annotations

from random import Random

import pytest
from PIL import Image, ImageChops, ImageDraw

from vlmprep.demo import pictures
from vlmprep.demo.pictures import PAPERS, draw_picture


def answers(picture: pictures.Picture) -> dict[str, str]:
    return {question.ask: question.answer for question in picture.questions}


def count_regions(image: Image.Image, paper: tuple[int, int, int]) -> int:
    """Count connected regions that are not paper, by painting them over one at a time."""
    mask = ImageChops.difference(image, Image.new("RGB", image.size, paper)).convert("L").point(lambda v: 255 * (v > 0))
    count = 0
    while box := mask.getbbox():
        top_row = mask.crop((0, box[1], mask.width, box[1] + 1)).getbbox()
        assert top_row is not None
        ImageDraw.floodfill(mask, (top_row[0], box[1]), 0)
        count += 1
    return count


@pytest.mark.parametrize("seed", range(12))
def test_as_many_shapes_are_seen_as_the_answer_says(seed):
    picture = pictures._draw_shapes(Random(seed), 0.4)
    told = answers(picture)
    paper = PAPERS[told["Which colour is the background?"].removeprefix("The background is ").removesuffix(".")]
    assert count_regions(picture.image, paper) == int(told["How many shapes do you see? Answer with a number."]) > 0


def test_shape_counts_differ_between_pictures():
    """Guards the test above: a picture that always shows one shape would pass it."""
    ask = "How many shapes do you see? Answer with a number."
    assert len({answers(pictures._draw_shapes(Random(seed), 0.4))[ask] for seed in range(12)}) > 4


@pytest.mark.parametrize("seed", range(12))
def test_a_page_has_as_many_lines_of_ink_as_the_answer_says(seed):
    picture = pictures._draw_page(Random(seed), 0.8)
    ink = ImageChops.invert(picture.image.convert("L")).point(lambda value: 255 * (value > 60))
    rows = [ink.crop((0, y, ink.width, y + 1)).getbbox() is not None for y in range(ink.height)]
    lines_of_ink = sum(now and not before for before, now in zip([False, *rows], rows, strict=False))
    num_lines = int(answers(picture)["How many lines of text are there below the title?"].split()[-1].rstrip("."))
    # Ascenders and dots can stand apart from the letters below them, but never fewer lines of ink than of text.
    assert 1 + num_lines <= lines_of_ink <= 1 + 2 * num_lines


def test_the_highest_bar_is_as_high_as_the_answer_says():
    num_bar_charts = 0
    for seed in range(12):
        picture = pictures._draw_chart(Random(seed), 1.0)
        told = answers(picture)
        _, colour, kind, *_ = told["What does the chart show?"].split()
        if kind != "bar":
            continue
        num_bar_charts += 1
        paint = Image.new("RGB", picture.image.size, pictures.COLOURS[colour])
        bars = (
            ImageChops.difference(picture.image, paint).convert("L").point(lambda value: 255 * (value == 0)).getbbox()
        )
        assert bars is not None
        # Lettering is a 45th of the width; 9 of its heights are left free around the plot, whose scale ends at 100.
        plot_height = picture.image.height - 9 * max(9, picture.image.width // 45)
        highest = int(told["Which month is the highest?"].removesuffix(".").split(", with ")[1])
        assert (bars[3] - bars[1]) / plot_height == pytest.approx(highest / 100, abs=0.02)
    assert num_bar_charts >= 3


def test_every_kind_is_drawn_and_siblings_make_pictures_smaller():
    alone = [draw_picture(Random(seed), 1) for seed in range(40)]
    among_four = [draw_picture(Random(seed), 4) for seed in range(40)]
    assert len({picture.questions[1].ask for picture in alone}) == 3
    areas = [sum(picture.image.width * picture.image.height for picture in group) for group in (alone, among_four)]
    assert areas[1] == pytest.approx(areas[0] / 4, rel=0.1)
