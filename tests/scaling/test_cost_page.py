"""The page of the cost: what it draws, what it says, and what its fields change."""

from __future__ import annotations

import pytest

from labsupport.scaling.cost import Machine, find_bill
from labsupport.scaling.cost_page import choose_cost, cost_chooser, describe_cost, draw_cost

MACHINES = [Machine("cpu", 0.1, 0.2), Machine("gpu", 0.01, 1.0)]


def test_each_machine_is_a_line_of_its_prices_with_axes_units_and_the_assumption():
    axes = draw_cost(MACHINES, 1000, 0.5, "EUR").axes[0]
    assert [line.get_label() for line in axes.lines[:2]] == ["cpu: RTF 0.1, 0.2 an hour", "gpu: RTF 0.01, 1 an hour"]
    for machine, line in zip(MACHINES, axes.lines[:2], strict=True):
        for hours, price in zip(*line.get_data(), strict=True):
            assert price == pytest.approx(find_bill(machine, hours, 0.5).an_hour)
    assert axes.get_xlabel() == "audio (hours a day)"
    assert axes.get_ylabel() == "price (EUR per audio hour)"
    assert "50 %" in axes.get_title()


def test_the_page_has_alt_text_and_the_cheapest_first():
    page = describe_cost(MACHINES, 10_000, 0.7)
    assert 'alt="Price per audio hour' in page
    assert page.index("<td>gpu") < page.index("<td>cpu")
    few = describe_cost(MACHINES, 1, 0.7)
    assert few.index("<td>cpu") < few.index("<td>gpu")


def test_fields_change_the_page_and_what_cannot_be_is_said():
    box = cost_chooser(MACHINES, 100, 0.7)
    page = box.children[-1]
    day, rtf = box.children[0].children[0], box.children[1].children[1]
    before = page.value
    day.value = 5000
    assert page.value != before
    assert page.value == describe_cost(MACHINES, 5000, 0.7)
    rtf.value = 0.2
    assert page.value == describe_cost([Machine("cpu", 0.2, 0.2), MACHINES[1]], 5000, 0.7)
    day.value = -1
    assert "not a plan" in page.value
    assert "hours" in page.value
    day.value = 5000
    assert "not a plan" not in page.value


@pytest.mark.parametrize(("static", "shown"), [("1", "HTML"), ("", "VBox")])
def test_a_static_page_shows_what_nobody_needs_to_operate(monkeypatch, static, shown):
    seen = []
    monkeypatch.setenv("LAB_STATIC_PAGE", static)
    monkeypatch.setattr("IPython.display.display", seen.append)
    choose_cost(MACHINES)
    assert [type(each).__name__ for each in seen] == [shown]
