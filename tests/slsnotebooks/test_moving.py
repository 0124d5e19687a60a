"""What all figures that move share; tests/test_site.py moves them in a browser."""

from __future__ import annotations

import re
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from moving_page import Figure, said

from slsnotebooks.moving import movable, ticks

PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg">'
    '<text class="sls-said">{0} is <tspan>{1}</tspan></text>'
    '<path d="M0 {1}"/><rect width="7"/><line x="{1}"/></svg>'
)
CONTROLS = {"Kind": ["a & b", "c"], "Place": range(3)}


def draw(kind: str, k: int) -> str:
    return PICTURE.format("It", f"{'' if kind == 'c' else '&lt;'}{k}")


@pytest.fixture
def page() -> str:
    return movable(draw, CONTROLS, ["c", 2], 'Two "words" & more')


def test_at_every_setting_the_picture_is_what_was_drawn(page: str) -> None:
    figure = Figure(page)
    assert len(figure.settings) == 6
    for kind, k in figure.settings:
        drawn = ElementTree.fromstring(draw(kind, k))
        assert ElementTree.tostring(figure.at(kind, k)) == ElementTree.tostring(drawn)
    assert said(figure.at("a & b", 1)) == ["It is <1"]


def test_the_picture_without_scripts_is_that_of_the_start(page: str) -> None:
    figure = Figure(page)
    assert figure.picture == draw(*figure.start) == draw("c", 2)
    assert figure.alt == 'Two "words" & more'


def test_only_what_differs_is_kept_once(page: str) -> None:
    ((_, values, _), (_, also, _)) = sorted(Figure(page).slots, key=lambda slot: slot[1])
    assert values == ["0", "1", "2", "<0", "<1", "<2"]  # of the text and of the line
    assert also == [f"M0 {value}" for value in values]


def test_pictures_of_other_elements_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        movable(lambda k: f"<svg>{'<g/>' * k}</svg>", {"Place": range(2)}, [0], "x")


def test_the_page_is_always_the_same_and_asks_for_nothing(page: str) -> None:
    assert page == movable(draw, CONTROLS, ["c", 2], 'Two "words" & more')
    addresses = set(re.findall(r"\w+://[\w./]+", page + unquote(page)))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of SVG's namespace


def test_the_numbers_of_an_axis_lie_on_it() -> None:
    assert (
        ticks("{:g}={:g} ", lambda at: 10 * at, -0.5, 2.2) == "-5=-0.5 0=0 5=0.5 10=1 15=1.5 20=2 "
    )
