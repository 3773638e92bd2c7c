"""What a reader can turn and press in JupyterLab. On a static page the same content stands as a picture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import ipywidgets
from IPython.display import HTML, display

from labsupport.base import plots
from labsupport.base.errors import LabError
from labsupport.base.plots import is_static_page
from labsupport.base.tables import html_table
from labsupport.checkpoints.config import SIZES
from labsupport.optim import memory_model
from labsupport.optim.memory_model import Setting
from labsupport.profiling.recording import Profile
from labsupport.profiling.table import op_table

ALL = "all"


def explore(profile: Profile) -> None:
    """Shows a profile's timeline with a choice of phase and of kind, and a field for an op's name.

    A run that makes a static page (see `is_static_page`) shows the picture alone.
    """
    if is_static_page():
        plots.show(profile.timeline(), describe(profile))
    else:
        display(timeline_filter(profile))


def timeline_filter(profile: Profile) -> ipywidgets.VBox:
    """The picture of the timeline below two menus and a field, which choose what it shows."""
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


def try_switches(labels: Mapping[str, str], measure: Callable[[Collection[str]], str]) -> None:
    """Shows a switch for each label, and a button that measures with those that are on.

    Args:
        labels: name of a switch -> what stands beside it.
        measure: the names that are on -> a line of text.

    On a static page the result with all of them on.
    """
    if is_static_page():
        print(f"All on: {measure(list(labels))}")
    else:
        display(switchboard(labels, measure))


def switchboard(labels: Mapping[str, str], measure: Callable[[Collection[str]], str]) -> ipywidgets.VBox:
    """The switches, the button, and a line for each measurement, the latest last."""
    switches = {
        name: ipywidgets.Checkbox(value=True, description=label, indent=False) for name, label in labels.items()
    }
    button = ipywidgets.Button(description="measure")
    page = ipywidgets.HTML()
    lines = [("off", "measured")]

    def press(_button=None):
        on = [name for name, switch in switches.items() if switch.value]
        button.disabled = True  # a second press would measure beside the first
        try:
            found = measure(on)
        except LabError as error:
            found = str(error)
        finally:
            button.disabled = False
        off = ", ".join(label for name, label in labels.items() if name not in on)
        lines.append((off or "nothing", found))
        page.value = html_table(lines, left=2)

    button.on_click(press)
    return ipywidgets.VBox([*switches.values(), button, page])


def size_memory() -> None:
    """Shows what a Whisper needs of memory, term by term, and which accelerators it fits, for a choice of settings.

    On a static page the picture and the table of one setting.
    """
    if is_static_page():
        display(HTML(describe_memory("large-v3", Setting())))
    else:
        display(memory_chooser())


def memory_chooser() -> ipywidgets.VBox:
    """Menus for size, precision, windows, beams and attention, above what they mean."""
    menus = {
        "size": list(SIZES), "weights": list(memory_model.BITS), "activations": ["float32", "float16", "bfloat16"],
        "windows": [1, 4, 8, 16], "beams": [1, 5], "tokens": [448, 224, 64],
        "attention": list(memory_model.SCORE_COPIES),
    }  # fmt: skip
    chosen = {name: ipywidgets.Dropdown(options=options, description=name) for name, options in menus.items()}
    page = ipywidgets.HTML()

    def redraw(_change=None):
        values = {name: menu.value for name, menu in chosen.items()}
        page.value = describe_memory(values.pop("size"), Setting(**values))

    for menu in chosen.values():
        menu.observe(redraw, "value")
    redraw()
    controls = list(chosen.values())
    return ipywidgets.VBox([ipywidgets.HBox(controls[:4]), ipywidgets.HBox(controls[4:]), page])


def describe_memory(size: str, setting: Setting) -> str:
    """HTML: the terms of both moments as bars, and below them a table of all cards."""
    config = SIZES[size]
    moments = {
        "encoding": memory_model.predict_encoding(config, setting),
        "decoding": memory_model.predict_decoding(config, setting),
    }
    gigabytes = {name: {term: count / 1e9 for term, count in terms.items()} for name, terms in moments.items()}
    needed = max(sum(terms.values()) for terms in gigabytes.values())
    picture = plots.stacked_bars(gigabytes, "memory (GB)", f"{size}: {needed:.2f} GB")
    terms = "; ".join(f"{n}: " + ", ".join(f"{t} {c:.2f} GB" for t, c in g.items()) for n, g in gigabytes.items())
    image = plots.image_tag(plots.to_png(picture), f"Memory of {size}. {terms}.", "image/png")
    return image + card_table(needed, memory_model.step_read_bytes(config, setting) / 1e9)


def card_table(needed: float, read: float) -> str:
    """HTML: for every card, whether `needed` GB fit, and the least time of a decode step that has to read `read` GB."""
    lines = [("card", "memory (GB)", "fits", "least time of a step (ms)")]
    for card in memory_model.read_cards():
        least = f"{1e3 * read / card.bandwidth:.2f}" if card.bandwidth else "not known"
        lines.append((card.name, f"{card.memory:g}", "yes" if needed < card.memory else "no", least))
    return html_table(lines)


def describe(profile: Profile, phase: str | None = None, kind: str | None = None, op: str = "") -> str:
    """Alt text for the timeline: the kinds of op in it and how long each takes."""
    kinds = op_table(profile.select(phase, kind, op)).by_kind()
    if not kinds:
        return "A timeline without ops: none fits the choice."
    return "Timeline of " + ", ".join(f"{row.name} {row.total_ms:.0f} ms" for row in kinds) + "."
