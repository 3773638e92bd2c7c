"""What article D's benchmark measured: batches, the file that holds them, and their summary."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from labsupport.base import json_lines, plots
from labsupport.base.errors import printable
from labsupport.base.records import from_fields

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES = ("semantic", "coarse", "fine", "codec")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """One batch of samples: seconds in all and by stage, and `measure_peak`'s bytes for this variant and size.

    first: the number of the first sample, and the seed; codes: a checksum of the fine codes; torch: its version, not
    known of batches that older versions of the lab measured.
    """

    variant: str
    batch: int
    first: int
    seconds: float
    stages: dict[str, float]
    peak_bytes: int
    codes: int
    torch: str = ""

    @property
    def key(self) -> tuple[str, int, int]:
        return self.variant, self.batch, self.first


@dataclass(frozen=True)
class Summary:
    """A variant's batches of one size: medians.

    latency: seconds of a batch; interval: the ends of its 95 % interval, or None of a single batch; throughput: samples
    a second; same: the fraction of batches with plain's codes, or None without plain.
    """

    variant: str
    batch: int
    runs: int
    latency: float
    interval: tuple[float, float] | None
    peak_bytes: float
    throughput: float
    stages: dict[str, float]
    same: float | None


# --- the file ---------------------------------------------------------------------------------------------------------


def append(path: Path, batch: Batch) -> None:
    """Adds a line to the file; FolderError where that fails."""
    json_lines.append(path, asdict(batch), "LAB_HOME")


def read(path: Path) -> list[Batch]:
    """The batches of a file, none where there is none; a warning names lines that are none: they are measured again."""
    batches, odd = json_lines.read(path, parse_batch)
    json_lines.name_odd(odd, "batch of this version")
    return list({(*batch.key, batch.torch): batch for batch in batches}.values())


def parse_batch(content: dict) -> Batch:
    """Raises ValueError where a field is absent or has another type, or the times are none."""
    batch = from_fields(Batch, content)
    seconds = [batch.seconds, *batch.stages.values()]
    if batch.stages.keys() != set(STAGES) or min(seconds) <= 0 or batch.batch < 1 or batch.peak_bytes < 0:
        raise ValueError("its figures are no times of the four stages")
    return batch


def of_this_torch(batches: Iterable[Batch]) -> list[Batch]:
    """Those that this torch, or an unknown one, measured; a word about the others."""
    kinds: dict[bool, list[Batch]] = {True: [], False: []}
    ours = ("", str(torch.__version__))  # torch's own kind of text parses what it is compared with, and may fail
    for batch in batches:
        kinds[batch.torch in ours].append(batch)
    if others := kinds[False]:
        log.warning("Left out: %d batches, measured with torch %.60s.", len(others), printable(others[0].torch))
    return kinds[True]


# --- summing up -------------------------------------------------------------------------------------------------------


def summarise(batches: Iterable[Batch]) -> list[Summary]:
    """One summary for each variant and size, in the order in which they first came."""
    groups: dict[tuple[int, str], list[Batch]] = {}
    for batch in batches:
        groups.setdefault((batch.batch, batch.variant), []).append(batch)
    plain = {(b.batch, b.first): b.codes for group in groups.values() for b in group if b.variant == "plain"}
    return [summarise_group(group, plain) for group in groups.values()]


def summarise_group(group: list[Batch], plain: dict[tuple[int, int], int]) -> Summary:
    seconds = [batch.seconds for batch in group]
    latency, size = statistics.median(seconds), group[0].batch
    pairs = [plain[size, b.first] == b.codes for b in group if (size, b.first) in plain]
    return Summary(
        group[0].variant,
        size,
        len(group),
        latency,
        median_interval(seconds),
        statistics.median(batch.peak_bytes for batch in group),
        size / latency,
        {stage: statistics.median(batch.stages[stage] for batch in group) for stage in group[0].stages},
        statistics.fmean(pairs) if pairs else None,
    )


def median_interval(values: list[float]) -> tuple[float, float] | None:
    """The 95 % interval of the median, from 1000 bootstrap samples; None of a single value."""
    from scipy.stats import bootstrap

    if len(values) < 2:
        return None
    found = bootstrap((values,), np.median, n_resamples=1000, method="percentile", random_state=0)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def table(summaries: Iterable[Summary]) -> list[list[str]]:
    """The heading, and a line for each summary; stages in seconds."""
    heading = ["variant", "batch", "runs", "latency (s)", "95 %", "peak (MB)", "samples/s", *STAGES, "as plain"]
    return [heading] + [
        [
            s.variant,
            str(s.batch),
            str(s.runs),
            f"{s.latency:.3g}",
            "{:.3g} to {:.3g}".format(*s.interval) if s.interval else "one run",
            f"{s.peak_bytes / 1e6:.0f}",
            f"{s.throughput:.3g}",
            *(f"{s.stages[stage]:.3g}" for stage in STAGES),
            "" if s.same is None else f"{100 * s.same:.0f} %",
        ]
        for s in summaries
    ]


def draw_bars(summaries: Iterable[Summary]) -> Figure:
    """Throughput and peak memory of each variant and batch size, the fastest on top."""
    fastest = sorted(summaries, key=lambda summary: -summary.throughput)
    names = {f"{s.variant}, {s.batch} at a time": s for s in fastest}
    throughput = {name: summary.throughput for name, summary in names.items()}
    peaks = {name: summary.peak_bytes / 1e6 for name, summary in names.items()}
    return plots.panels({"samples a second": throughput, "peak memory (MB)": peaks}, "Bark: faster, and smaller")
