"""Rewrites the generated parts of README.md, ARCHITECTURE.md and CITATION.cff from notebooks, claims, sources, rows and
import contract.

.venv/bin/python tools/papers.py           writes them
.venv/bin/python tools/papers.py --check   writes nothing; exit code 1 where they would change
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labsupport.base import plots
from labsupport.base.errors import CourseError
from labsupport.base.paths import DATA, ROOT, atomic_write, read_toml
from labsupport.base.tables import markdown_table
from labsupport.course import report
from labsupport.course.report import Lesson
from labsupport.results import claims, rows, sources, verdicts
from labsupport.results.claims import Claim
from labsupport.results.rows import Row

README, ARCHITECTURE, PICTURE = ROOT / "README.md", ROOT / "ARCHITECTURE.md", DATA / "gains.svg"
CITATION = ROOT / "CITATION.cff"
ALT = "Bars of the gain of each optimisation, the numbers of the table of eight results below."
GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- /generated -->)", re.DOTALL)


@dataclass(frozen=True)
class Headline:
    """One optimisation's result: `after` against `before`, two variants of `topic` from one session.

    Where the ratio of the pairs was recorded itself, as a claim's row or as one called `topic`, it has no variants.
    """

    notebook: str
    label: str
    effect: str
    model: str
    topic: str = ""
    before: str = ""
    after: str = ""
    claim: str | None = None


HEADLINES = (
    Headline("00_start_here", "KV cache, 24 tokens", "as fast", "tiny.en", "decode 24 tokens", "no cache", "KV cache"),
    Headline("03_attention_modes", "attention in tiles, a transcription", "as fast", "tiny.en", claim="A2"),
    Headline(
        "05_conv1d_upgrade", "Conv1D without its detour, the layer alone", "as fast", "tiny.en", "Conv1D alone",
        "via_conv2d_transposed", "native",
    ),
    Headline(
        "06_static_kv_cache", "static KV cache, a step of 5 beams", "as fast", "base",
        "decode step at 220, 1 windows, 5 beams: static against dynamic",
    ),
    Headline("07_graph_rewrites", "four graph passes, a decode step", "as fast", "base", claim="B1"),
    Headline(
        "09_quantization", "INT8, compiled, a transcription", "as fast", "base", "transcription by precision",
        "float32", "int8 integers, compiled, float16 attention",
    ),
    Headline(
        "11_training_memory", "checkpointing, training 25 layers", "smaller", "deep (random)",
        "peak of a training pass, 25 layers", "all kept", "groups of the root",
    ),
    Headline("14_bark", "all three tricks, Bark", "as fast", "bark-small", claim="D18"),
)  # fmt: skip


@dataclass(frozen=True)
class Gain:
    """How many times better, from one session on one machine, and its interval (None for one run, as of memory)."""

    value: float
    interval: tuple[float, float] | None
    row: Row

    @property
    def shown(self) -> bool:
        """Whether there is a gain: an interval that holds 1 shows none."""
        return self.interval is None or self.interval[0] > 1

    def describe(self, effect: str) -> str:
        """Such as "2.00 times as fast (1.80 to 2.20)"."""
        ends = "{:.2f} to {:.2f}".format(*self.interval) if self.interval else "one run"
        return f"{self.value:.2f} times {effect} ({ends})" if self.shown else f"no difference ({ends} times {effect})"


def make() -> dict[Path, str]:
    """Both papers and the picture as they should be."""
    reference = rows.read_rows(rows.REFERENCE)
    found = {headline: find_gain(headline, reference) for headline in HEADLINES}
    return {
        README: fill(README.read_text(encoding="utf-8"), readme_parts(reference, found)),
        ARCHITECTURE: fill(ARCHITECTURE.read_text(encoding="utf-8"), {"floors": draw_floors()}),
        CITATION: replace_references(CITATION.read_text(encoding="utf-8")),
        PICTURE: draw_gains(found).decode(),
    }


def update(check: bool = False) -> list[Path]:
    """Rewrites what is out of date, unless it is only to `check`, and gives its paths."""
    texts = make()
    outdated = [path for path in texts if not path.exists() or path.read_text(encoding="utf-8") != texts[path]]
    for path in () if check else outdated:
        with atomic_write(path) as part:
            part.write_text(texts[path], encoding="utf-8", newline="\n")
    return outdated


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where they would change")
    check = parser.parse_args(arguments).check
    outdated = update(check)
    for path in outdated:
        print(f"{'out of date:' if check else 'rewrote'} {path.relative_to(ROOT)}")
    return int(check and bool(outdated))


def fill(text: str, parts: dict[str, str]) -> str:
    """The text with each `<!-- generated: NAME -->` ... `<!-- /generated -->` holding that part.

    Raises:
        CourseError: when the text asks for an unknown part, or has no place for a known one.
    """
    asked = {match[2] for match in GENERATED.finditer(text)}
    if wrong := sorted(asked ^ set(parts)):
        hint = f"the generated parts are {', '.join(sorted(parts))}"
        raise CourseError(f"The text and the generated parts do not agree about {wrong[0]!r}.", hint=hint)
    return GENERATED.sub(lambda match: f"{match[1]}{parts[match[2]]}\n{match[3]}", text)


def replace_references(text: str) -> str:
    """CITATION.cff with the key `references`, its last one, written anew."""
    return text.partition("references:\n")[0] + sources.citation_references()


# --- README.md --------------------------------------------------------------------------------------------------------


def readme_parts(reference: Sequence[Row], found: dict[Headline, Gain]) -> dict[str, str]:
    """Name of a generated part -> its Markdown."""
    return {
        "map": map_table(report.lessons()),
        "picture": f"![{ALT}](data/gains.svg)",
        "results": headline_table(found),
        "verdicts": verdict_counts(claims.load(), reference),
        "articles": sources.article_list(),
    }


def map_table(course: Sequence[Lesson]) -> str:
    """The course map."""
    heading = ("Notebook", "You will", "Runs on", "Article", "Minutes")
    lines = [
        (
            f"[{lesson.number} {lesson.title}](notebooks/{lesson.name}.ipynb)",
            re.split("[,;:.]", lesson.promise)[0],
            ", ".join(lesson.backends) + "".join(f"; needs {need}" for need in lesson.needs),
            ", ".join(lesson.articles) or "-",
            f"{lesson.minutes:g}",
        )
        for lesson in course
    ]
    return markdown_table([heading, *lines], left=4)


def find_gain(headline: Headline, reference: Sequence[Row]) -> Gain:
    """What the latest session found, be it a gain or none: a lucky earlier one would be chosen by its result.

    Sessions in fast mode, and rows that are too noisy, do not count.

    Raises:
        CourseError: no session measured it.
    """
    of_model = [row for row in reference if row.model == headline.model and (row.value or 0) > 0 and counts(row)]
    if not headline.after:
        found = [row for row in of_model if row.claim == headline.claim and headline.topic in ("", row.what)]
        if found and found[-1].interval is not None:
            return Gain(found[-1].number, found[-1].interval, found[-1])
    for ladder in reversed(
        report.group_sessions(row for row in of_model if row.what.startswith(f"{headline.topic}: "))
    ):
        if headline.after and {headline.before, headline.after} <= ladder.steps.keys():
            return compare_rows(ladder.steps[headline.before], ladder.steps[headline.after])
    raise CourseError(f"No session of the reference rows gives the gain of {headline.label!r}.", where=rows.REFERENCE)


def counts(row: Row) -> bool:
    return not (row.fast or row.find_oddity() or row.is_too_noisy())


def compare_rows(before: Row, after: Row) -> Gain:
    """The ratio of the pairs; in older rows that of the medians, between the ends of both interquartile ranges."""
    if after.gain and f"{before.what}".endswith(f": {after.against}"):
        value, low, high = after.gain
        return Gain(value, (low, high), after)
    value = before.number / after.number
    if before.spread is None or after.spread is None:
        return Gain(value, None, after)
    half, room = before.spread / 2, after.spread / 2
    low, high = (before.number - half) / (after.number + room), (before.number + half) / (after.number - room)
    return Gain(value, (low, high), after)


def headline_table(found: dict[Headline, Gain]) -> str:
    """One line for each optimisation."""
    heading = ("Optimisation", "Gain", "Measured with")
    lines = [
        (
            f"[{headline.label}](notebooks/{headline.notebook}.ipynb)",
            gain.describe(headline.effect),
            f"{headline.model}, {gain.row.machine}, {gain.row.date[:10]}",
        )
        for headline, gain in found.items()
    ]
    return markdown_table([heading, *lines], left=3)


def draw_gains(found: dict[Headline, Gain]) -> bytes:
    """The picture: a bar for each gain, as an SVG."""
    values = {f"{headline.label}: {headline.effect}": gain.value for headline, gain in found.items() if gain.shown}
    drawn = plots.bars(values, "times; 1 is no change", "What each optimisation gains on a CPU")
    drawn.set_size_inches(8.4, drawn.get_size_inches()[1])
    drawn.axes[0].axvline(1, color=plots.COLOURS[-1], linewidth=1)
    return plots.to_svg(drawn)


def verdict_counts(ledger: Sequence[Claim], reference: Sequence[Row]) -> str:
    """One sentence: how many of the articles' claims have which verdict, by the reference rows."""
    found = [verdicts.verdict(claim, reference, machine="reference") for claim in ledger]
    counts = ", ".join(f"{count} {status}" for status, count in report.count_verdicts(found).items() if count)
    return f"Of the articles' {len(found)} claims: {counts}."


# --- ARCHITECTURE.md --------------------------------------------------------------------------------------------------


def draw_floors() -> str:
    """The contract's floors, the highest on top, each room with what it holds."""
    floors = [[name.strip() for name in layer.split("|")] for layer in read_layers()]
    width = max(len(name) for floor in floors for name in floor)
    lines = ["\n".join(f"{name:{width}}  {read_purpose(name)}" for name in floor) for floor in floors]
    rule = "-" * max(len(line) for floor in lines for line in floor.splitlines())
    return "\n".join(["```", f"\n{rule}\n".join(lines), "```"])


def read_layers() -> list[str]:
    """The layers of the import contract in pyproject.toml."""
    contracts = read_toml(ROOT / "pyproject.toml")["tool"]["importlinter"]["contracts"]
    return next(contract["layers"] for contract in contracts if contract["type"] == "layers")


def read_purpose(name: str) -> str:
    """The first line of a room's or module's docstring."""
    place = ROOT / "labsupport" / name
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
