"""How a quantity grows with a size: not at all, as the square root, linearly or quadratically, over four sizes or more.

Burnham and Anderson, Model Selection and Multimodel Inference (2002): models are compared by Akaike's criterion (AIC).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from labsupport.base.errors import MeasureError
from labsupport.base.tables import format_number

FORMS = {"constant": 0.0, "square root": 0.5, "linear": 1.0, "quadratic": 2.0}  # name -> power of the size
FEWEST = 4  # sizes: three points lie near a line, a root and a parabola alike
SMALLEST_ERROR = 0.01  # relative: an allocator's rounding; a fit better than this is no better a fit
FITS = 0.05  # relative error up to which a form explains the values: beyond it they are noise, or of no form here
DECISIVE = 4.0  # difference of AIC from which a model has "considerably less support"


@dataclass(frozen=True)
class Growth:
    """What was found.

    Args:
        sizes: (size, value) pairs, in the order of the sizes.
        power: slope of log(value) over log(size), and its 95 % interval `low` to `high`; a constant part pulls it down.
        forms: those of FORMS, each with a constant part, that no other decisively beats.
        error: relative error of the best of them.
    """

    sizes: tuple[tuple[float, float], ...]
    power: float
    low: float
    high: float
    forms: tuple[str, ...]
    error: float

    @property
    def form(self) -> str | None:
        """The one form that explains the values; None where more than one does, or none."""
        return self.forms[0] if len(self.forms) == 1 and self.error <= FITS else None

    @property
    def rises(self) -> bool:
        """Whether the values certainly grow: no constant explains them."""
        return "constant" not in self.forms

    def __str__(self) -> str:
        values = ", ".join(f"{format_number(value, 4)} at {size:g}" for size, value in self.sizes)
        return f"{' or '.join(self.forms)} (power {self.power:.2f}, {self.low:.2f} to {self.high:.2f}): {values}"


def find_growth(sizes: Sequence[Sequence[float]]) -> Growth:
    """Compares the forms on (size, value) pairs, all above zero.

    MeasureError: fewer than FEWEST different sizes, or a size or value that is not above zero.
    """
    pairs = tuple(sorted((float(size), float(value)) for size, value in sizes))
    if len({size for size, _ in pairs}) < FEWEST:
        raise MeasureError(f"A growth is judged from {FEWEST} sizes or more, not {len(pairs)}.", where=pairs)
    if any(not 0 < number < math.inf for pair in pairs for number in pair):
        raise MeasureError("A growth is judged from sizes and values above zero.", where=pairs)
    forms = choose_forms(pairs)
    return Growth(pairs, *fit_power(pairs), forms, min(fit_form(pairs, FORMS[name]) for name in forms))


def choose_forms(pairs: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    """The forms that the best one does not decisively beat; a constant that is not beaten, and fits, stands alone."""
    errors = {name: fit_form(pairs, power) for name, power in FORMS.items()}
    terms = {name: 1 if name == "constant" else 2 for name in FORMS}
    scores = {name: 2 * len(pairs) * math.log(errors[name]) + 2 * terms[name] for name in FORMS}  # AIC
    left = tuple(name for name in FORMS if scores[name] - min(scores.values()) < DECISIVE)
    return ("constant",) if "constant" in left and errors["constant"] <= FITS else left


def fit_form(pairs: Sequence[tuple[float, float]], power: float) -> float:
    """Relative error (root of the mean square) of value = a + b size^power, where neither is negative."""
    import numpy as np
    from scipy.optimize import nnls

    size, value = np.array(pairs).T
    terms = np.stack([np.ones_like(size), (size / size.max()) ** power][: 1 if power == 0 else 2], axis=1)
    _, norm = nnls(terms / value[:, None], np.ones_like(value))
    return max(norm / math.sqrt(len(value)), SMALLEST_ERROR)


def fit_power(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Slope of log(value) over log(size), and the two ends of its 95 % interval."""
    import numpy as np
    from scipy.stats import linregress, t

    fit = linregress(*np.log(pairs).T)
    half = float(t.ppf(0.975, len(pairs) - 2)) * float(fit.stderr)
    return float(fit.slope), float(fit.slope) - half, float(fit.slope) + half
