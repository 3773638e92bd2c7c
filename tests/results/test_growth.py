"""How a quantity grows, on planted values of each kind."""

from __future__ import annotations

import math
import random

import pytest

from labsupport.base.errors import MeasureError
from labsupport.results.growth import FORMS, choose_forms, find_growth

SIZES = ((4, 9, 16, 25), (128, 512, 1500, 6000), (1, 2, 4, 8, 16))
PLANTED = {
    "constant": lambda n: 1.0,
    "square root": math.sqrt,
    "linear": float,
    "quadratic": lambda n: float(n) ** 2,
}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_form_is_found_and_no_other(name, sizes):
    for seed in range(20):
        chance = random.Random(seed)
        growth = find_growth([(n, 7 * PLANTED[name](n) * chance.gauss(1, 0.005)) for n in sizes])
        assert growth.form == name, (seed, growth)
        assert growth.low <= growth.power <= growth.high
        assert growth.power == pytest.approx(FORMS[name], abs=0.03)
        assert growth.rises == (name != "constant")


@pytest.mark.parametrize("name", ["square root", "linear", "quadratic"])
def test_a_constant_part_does_not_pass_a_form_for_a_lower_one(name):
    """What pulls the slope down: of n + 10 over 4 to 25 it is 0.5, and the growth is linear for all that."""
    found = set()
    for seed in range(20):
        chance = random.Random(seed)
        values = [(n, (10 + PLANTED[name](n)) * chance.gauss(1, 0.005)) for n in (4, 9, 16, 25, 36, 64, 100)]
        found.add(find_growth(values).form)
    assert found == {name}


def test_a_slope_of_a_half_is_no_square_root():
    growth = find_growth([(n, 10 + n) for n in (4, 9, 16, 25)])
    assert 0.4 < growth.power < 0.6
    assert growth.form == "linear"


def test_noise_leaves_more_than_one_form():
    growth = find_growth([(1, 1.0), (2, 3.1), (3, 1.2), (4, 3.9)])
    assert growth.form is None
    assert len(growth.forms) > 1
    assert not growth.rises


def test_no_form_explains_values_that_jump():
    """The quadratic one is the best here, and far from good."""
    growth = find_growth([(4, 136.8), (9, 126.1), (16, 183.3), (25, 261.9)])
    assert growth.error > 0.05
    assert growth.form is None


def test_what_falls_does_not_rise():
    assert not find_growth([(n, 100 / n) for n in (1, 2, 4, 8)]).rises


def test_small_differences_are_no_growth():
    assert find_growth([(1, 132.0), (2, 129.0), (3, 127.0), (4, 125.0)]).form == "constant"


@pytest.mark.parametrize(
    "sizes", [[(1, 1.0), (2, 2.0), (4, 4.0)], [(1, 1.0), (1, 1.1), (2, 2.0), (4, 4.0)], []], ids=["3", "twice", "none"]
)
def test_three_sizes_are_too_few(sizes):
    with pytest.raises(MeasureError, match="4 sizes or more"):
        find_growth(sizes)


@pytest.mark.parametrize("odd", [(0, 1.0), (8, 0.0), (8, -1.0), (8, math.inf), (8, math.nan)])
def test_odd_sizes_and_values_are_refused(odd):
    with pytest.raises(MeasureError, match="above zero"):
        find_growth([(1, 1.0), (2, 2.0), (4, 4.0), odd])


def test_forms_agree_with_a_fit_by_polyfit():
    """An independent least squares of the linear form, where no coefficient would be negative."""
    import numpy as np

    from labsupport.results.growth import fit_form

    pairs = [(1, 3.2), (2, 4.9), (3, 7.4), (4, 8.8)]
    size, value = np.array(pairs).T
    slope, start = np.polyfit(size, value, 1, w=1 / value)
    expected = np.sqrt(np.mean(((start + slope * size) / value - 1) ** 2))
    assert fit_form(pairs, 1.0) == pytest.approx(expected)
    assert "linear" in choose_forms(pairs)


def test_it_says_what_it_found():
    assert str(find_growth([(n, 2 * n) for n in (1, 2, 3, 4)])).startswith("linear (power 1.00, 1.00 to 1.00): 2 at 1")
    assert "36.77 million at 1500" in str(find_growth([(n, 36.77e6 * n / 1500) for n in (500, 1000, 1500, 2000)]))
