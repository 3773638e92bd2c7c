"""In a notebook: a part that does not run here, with the reason for the learner."""

from __future__ import annotations

from labsupport.course.notebook import SKIP_MIME


def skip(reason: str) -> None:
    """In a notebook: shows the learner why a part does not run here; the run's summary and the report count it.

    Raises:
        ValueError: when there is no reason.
    """
    from IPython.display import display

    if not reason.strip():
        raise ValueError("a skip needs a reason that the learner can use")
    text = f"Skipped: {reason}"
    display({SKIP_MIME: {"reason": reason}, "text/markdown": f"> **{text}**", "text/plain": text}, raw=True)
