"""Number formats, written out by hand."""

from __future__ import annotations

import math

import pytest

from reports import formats


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0004, "<0.001"),
        (0.0123, "0.012"),
        (0.0496, "0.0496"),
        (0.0504, "0.0504"),
        (0.3, "0.30"),
        (1.0, "1.00"),
        (math.nan, "-"),
    ],
)
def test_p_values(p: float, text: str) -> None:
    assert formats.p_value(p) == text


def test_numbers() -> None:
    assert formats.percent(-0.00001, 2, signed=True) == "0.00"
    assert formats.percent(0.0421, 1, signed=True) == "+4.2"
    assert formats.percent(math.nan, 1) == "-"
    assert [formats.duration(s) for s in (0.84, 9.97, 59.7, 185, 7800, math.nan)] == [
        "0.8 s",
        "10 s",
        "1 min 0 s",
        "3 min 5 s",
        "2 h 10 min",
        "-",
    ]


def test_a_minus_is_a_minus_and_a_hyphen_stays_one() -> None:
    assert formats.typographic("wrn-28-10: -0.5 [-1.7, +0.7]") == "wrn-28-10: \u22120.5 [\u22121.7, +0.7]"
    assert formats.typographic("-") == "\u2013"


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (1, "about 1 seed"),
        (20, "about 20 seeds"),
        (21, "some 20 seeds"),
        (35, "some 40 seeds"),
        (422, "some 400 seeds"),
        (960, "some 1,000 seeds"),
    ],
)
def test_an_estimated_number_claims_no_more_than_it_knows(n: int, text: str) -> None:
    assert formats.roughly(n, "seed") == text


def test_a_long_list_ends_in_a_number() -> None:
    assert formats.listed(["a", "b"], most=2) == "a, b"
    assert formats.listed(["a", "b", "c", "d"], most=2, separator="; ") == "a; b and 2 more"
    assert formats.listed([], most=2) == ""
