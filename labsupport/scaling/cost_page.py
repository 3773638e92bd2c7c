"""The cost of so many hours a day as a page: a plot with its assumptions, a table, and the fields that change both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labsupport.base import plots
from labsupport.base.errors import LabError
from labsupport.base.plots import is_static_page
from labsupport.base.tables import format_number, html_table
from labsupport.scaling.cost import Machine, compare_bills, find_bill, price_when_busy

if TYPE_CHECKING:
    import ipywidgets
    from matplotlib.figure import Figure

POINTS = 120


def draw_cost(machines: Sequence[Machine], hours: float, utilisation: float, currency: str = "") -> Figure:
    """The price of an hour of audio against the hours a day, a line for each kind of machine; `hours` is marked."""
    drawn, axes = plots.figure(7.2, 4.0)
    days = np.geomspace(max(hours / 100, 0.1), hours * 10, POINTS)
    for machine in machines:
        label = f"{machine.name}: RTF {format_number(machine.rtf)}, {format_number(machine.price)} an hour"
        axes.plot(days, [find_bill(machine, each, utilisation).an_hour for each in days], label=label)
    axes.axvline(hours, color="grey", linestyle=":")
    axes.set(
        xscale="log", yscale="log", xlabel="audio (hours a day)",
        ylabel=f"price ({currency or 'a unit'} per audio hour)",
        title=f"Rented all day, busy {100 * utilisation:.0f} % of it at most",
    )  # fmt: skip
    drawn.legend(loc="outside lower center", frameon=False)
    return drawn


def describe_cost(machines: Sequence[Machine], hours: float, utilisation: float, currency: str = "") -> str:
    """HTML: the plot with alt text, and below it the bill of each kind of machine, the cheapest first."""
    bills = compare_bills(machines, hours, utilisation)
    lines: list[tuple[str, ...]] = [
        ("machine", "machines", "used (%)", "price a day", "price per audio hour", "always busy")
    ]
    for machine in sorted(machines, key=lambda machine: list(bills).index(machine.name)):
        bill, least = bills[machine.name], price_when_busy(machine)
        numbers = (100 * bill.used, bill.a_day, bill.an_hour, least)
        lines.append((machine.name, str(bill.machines), *map(format_number, numbers)))
    said = "; ".join(f"{name} {format_number(bill.an_hour)} on {bill.machines}" for name, bill in bills.items())
    alt = f"Price per audio hour against hours a day, falling in steps; at {format_number(hours)} hours: {said}."
    picture = plots.image_tag(plots.to_png(draw_cost(machines, hours, utilisation, currency)), alt, "image/png")
    return picture + html_table(lines)


def choose_cost(
    machines: Sequence[Machine], hours: float = 100.0, utilisation: float = 0.7, currency: str = ""
) -> None:
    """Shows the bill with fields for hours, utilisation, each machine's RTF and price; on a static page, alone."""
    from IPython.display import HTML, display

    if is_static_page():
        display(HTML(describe_cost(machines, hours, utilisation, currency)))
    else:
        display(cost_chooser(machines, hours, utilisation, currency))


def cost_chooser(
    machines: Sequence[Machine], hours: float = 100.0, utilisation: float = 0.7, currency: str = ""
) -> ipywidgets.VBox:
    """The fields above what they mean; what cannot be (a price below 0) is said in place of the page."""
    import ipywidgets

    day = ipywidgets.FloatText(hours, description="hours a day")
    part = ipywidgets.FloatSlider(utilisation, min=0.05, max=1, step=0.05, description="busy at most")
    fields = {
        machine.name: (
            ipywidgets.FloatText(machine.rtf, description="RTF"),
            ipywidgets.FloatText(machine.price, description="price"),
        )
        for machine in machines
    }  # fmt: skip
    page = ipywidgets.HTML()

    def redraw(_change=None):
        try:
            chosen = [Machine(name, rtf.value, price.value) for name, (rtf, price) in fields.items()]
            page.value = describe_cost(chosen, day.value, part.value, currency)
        except LabError as error:
            page.value = html_table([("not a plan",), (f"{error.what} {error.where or ''}",)])

    for control in (day, part, *(field for pair in fields.values() for field in pair)):
        control.observe(redraw, "value")
    redraw()
    rows = [ipywidgets.HBox([ipywidgets.Label(name), *pair]) for name, pair in fields.items()]
    return ipywidgets.VBox([ipywidgets.HBox([day, part]), *rows, page])
