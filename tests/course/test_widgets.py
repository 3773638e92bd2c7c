"""The widgets show what is chosen."""

from __future__ import annotations

import re

import pytest

from labsupport.base.errors import NotAvailable
from labsupport.course import widgets


def test_the_chooser_shows_what_is_chosen(monkeypatch):
    monkeypatch.delenv("LAB_STATIC_PAGE", raising=False)
    chooser = widgets.memory_chooser()
    menus = {menu.description: menu for line in chooser.children[:2] for menu in line.children}
    page = chooser.children[2]
    assert "Memory of tiny.en. encoding" in page.value
    menus["size"].value = "large-v3"
    assert "Memory of large-v3. encoding: weights 6.17 GB" in page.value
    menus["weights"].value = "int8"
    assert "weights 1.54 GB" in page.value


def test_a_card_that_is_too_small_is_marked():
    table = re.sub(r' style="[^"]*"', "", widgets.card_table(needed=20, read=3))
    assert "<td>NVIDIA T4</td><td>16</td><td>no</td><td>10.00</td>" in table
    assert "<td>NVIDIA A10G</td><td>24</td><td>yes</td><td>5.00</td>" in table
    assert "<td>Ascend 910B</td><td>64</td><td>yes</td><td>not known</td>" in table


@pytest.mark.parametrize(("variable", "shown"), [("LAB_STATIC_PAGE", "HTML"), ("LAB_GROUP", "VBox")])
def test_a_static_page_gets_the_picture_and_a_group_of_rows_changes_nothing(monkeypatch, variable, shown):
    monkeypatch.delenv("LAB_STATIC_PAGE", raising=False)
    monkeypatch.setenv(variable, "1")
    displayed = []
    monkeypatch.setattr("labsupport.course.widgets.display", displayed.append)
    widgets.size_memory()
    assert [type(thing).__name__ for thing in displayed] == [shown]


def press(board):
    board.children[-2].click()
    return re.sub(r' style="[^"]*"', "", board.children[-1].value)


def test_the_switchboard_measures_with_what_is_on_and_keeps_a_line_of_each():
    given = []
    board = widgets.switchboard({"a": "first", "b": "second"}, lambda on: given.append(list(on)) or f"{len(on)} s")
    assert "<td>nothing</td><td>2 s</td>" in press(board)
    board.children[0].value = False
    shown = press(board)
    assert given == [["a", "b"], ["b"]]
    assert shown.index("<td>nothing</td><td>2 s</td>") < shown.index("<td>first</td><td>1 s</td>")


def test_an_error_of_the_lab_is_shown_and_the_button_works_again():
    def fail(on):
        if on:
            raise NotAvailable("OpenVINO is not installed.")
        return "0 s"

    board = widgets.switchboard({"a": "first"}, fail)
    assert "OpenVINO is not installed." in press(board)
    assert not board.children[-2].disabled
    board.children[0].value = False
    assert "<td>first</td><td>0 s</td>" in press(board)


def test_on_a_static_page_the_switches_are_one_line(monkeypatch, capsys):
    monkeypatch.setenv("LAB_STATIC_PAGE", "1")
    widgets.try_switches({"a": "first"}, lambda on: f"{len(on)} s")
    assert capsys.readouterr().out == "All on: 1 s\n"
