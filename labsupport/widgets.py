"""What a reader can turn and press in JupyterLab. On a static page the same content stands as a picture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import plots
from .profiling import Profile, table_of

if TYPE_CHECKING:
    import ipywidgets

ALL = "all"


def explore(profile: Profile) -> None:
    """Shows a profile's timeline with a choice of phase and of kind, and a field for an op's name.

    A run that makes a static page (`lab run`, which sets `LAB_GROUP`) shows the picture alone: a page cannot answer.
    """
    from IPython.display import display

    if os.environ.get("LAB_GROUP"):
        plots.show(profile.timeline(), describe(profile))
    else:
        display(timeline_filter(profile))


def timeline_filter(profile: Profile) -> ipywidgets.VBox:
    """The picture of the timeline below two menus and a field, which choose what it shows."""
    import ipywidgets

    phases = dict.fromkeys(phase.name for phase in profile.phases)
    kinds = [row.name for row in profile.table().by_kind()]
    phase = ipywidgets.Dropdown(options=[ALL, *phases], description="phase")
    kind = ipywidgets.Dropdown(options=[ALL, *dict.fromkeys(kinds)], description="kind")
    op = ipywidgets.Text(placeholder="part of a name", description="op", continuous_update=False)
    picture = ipywidgets.HTML()

    def redraw(_change=None):
        chosen = [None if menu.value == ALL else menu.value for menu in (phase, kind)]
        drawn = profile.timeline(*chosen, op.value)
        picture.value = plots.image_tag(plots.to_png(drawn), describe(profile, *chosen, op.value), "image/png")

    for control in (phase, kind, op):
        control.observe(redraw, "value")
    redraw()
    return ipywidgets.VBox([ipywidgets.HBox([phase, kind, op]), picture])


def describe(profile: Profile, phase: str | None = None, kind: str | None = None, op: str = "") -> str:
    """Alt text for the timeline: the kinds of op in it and how long each takes."""
    kinds = table_of(profile.select(phase, kind, op)).by_kind()
    if not kinds:
        return "A timeline without ops: none fits the choice."
    return "Timeline of " + ", ".join(f"{row.name} {row.total_ms:.0f} ms" for row in kinds) + "."
