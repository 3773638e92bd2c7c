"""Finds the figures in the notebooks' prose that nothing holds true, so that text and output cannot part.

.venv/bin/python tools/prose_numbers.py notebooks/*.ipynb

A figure is a number in digits, a fraction or a multiple in words ("half", "twice", "a third", "three times"), a number
word before a unit, or a number word above ten. No figures are: code, formulas, addresses, names and versions
(large-v3, INT8, Python 3.10), numbers of exercises, notebooks, claims and list entries.

A figure is covered when one of these holds:
1. It is a literal in an assertion next to it: in the code cells right before or right after its cell, within its
   section. A section runs from one heading to the next, also where a heading stands inside a cell. A section without
   code, such as a page's summary, may take any assertion of its page.
2. A claim that its section names (in prose or in code) has it, with the same kind of unit.
3. `data/prose_constants.toml` allows it beside these words.
4. It is the time that a page takes, as its metadata has it.
What code displays needs no check: it is made from the values.
"""

from __future__ import annotations

import argparse
import ast
import functools
import math
import operator
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from labsupport.base.errors import CourseError
from labsupport.base.paths import DATA, read_toml
from labsupport.course.notebook import joined, parse
from labsupport.results import claims
from labsupport.results.claims import Claim

CONSTANTS = DATA / "prose_constants.toml"

# A unit: what it multiplies by, and what it is a unit of. Figures of different kinds are never the same.
UNITS = {
    "%": (0.01, "share"), "per cent": (0.01, "share"), "percent": (0.01, "share"),
    "times": (1, "ratio"), "fold": (1, "ratio"), "x": (1, "ratio"), "×": (1, "ratio"), "倍": (1, "ratio"),
    "s": (1, "time"), "ms": (1e-3, "time"), "µs": (1e-6, "time"), "us": (1e-6, "time"), "ns": (1e-9, "time"),
    "seconds": (1, "time"), "milliseconds": (1e-3, "time"), "minutes": (60, "time"), "hours": (3600, "time"),
    "秒": (1, "time"), "毫秒": (1e-3, "time"), "分钟": (60, "time"),
    "bytes": (1, "memory"), "kB": (1e3, "memory"), "MB": (1e6, "memory"), "GB": (1e9, "memory"), "G": (1e9, "memory"),
    "bits": (1, "bits"), "Hz": (1, "rate"), "kHz": (1e3, "rate"), "MHz": (1e6, "rate"), "GHz": (1e9, "rate"),
    "thousand": (1e3, ""), "million": (1e6, ""), "billion": (1e9, ""), "万": (1e4, ""), "亿": (1e8, ""),
}  # fmt: skip
UNIT = r"(?:" + "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True)) + r")(?![A-Za-z0-9]|(?<=x) \d)"
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
CARDINALS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
LARGE = {
    "eleven": 11,
    "twelve": 12,
    "dozen": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
}
LARGE |= {"eighteen": 18, "nineteen": 19, "hundred": 100} | dict(zip(TENS, range(20, 100, 10), strict=True))
PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7}
PARTS |= {"eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000}
MULTIPLES = {"twice": 2, "thrice": 3, "double": 2, "doubles": 2, "doubled": 2, "triple": 3, "triples": 3, "tripled": 3}
MULTIPLES |= {"half": 2, "halve": 2, "halves": 2, "halved": 2, "orders? of magnitude": 10}

DIGITS = r"\d{1,3}(?:[,\u00a0\u202f ]\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?(?:e[-+]?\d+)?|\.\d+"
NUMBER = re.compile(rf"(?:(?<![A-Za-z0-9.])|(?<=\dx))(?:{DIGITS})(?!\d)")  # 2.4, and each number of 4x1500
CARDINAL = "|".join(CARDINALS)
COUNTED = re.compile(
    rf"\b({CARDINAL})(?=(?:\s(?:to|or|and)\s(?:{CARDINAL}))?(?:-?fold\b|[\s-](?:hundred|{UNIT})))"
    rf"|\b(?:{'|'.join(LARGE)})(?:-(?:one|{CARDINAL}))?\b",
    re.I,
)
PART = re.compile(
    rf"\b(a|one|another|{CARDINAL})[\s-]({'|'.join(PARTS)})(s?)\b(?!\s(?:time|way|one|kind|part|bit|cache)\b)", re.I
)
MULTIPLE = re.compile(rf"\b(?:{'|'.join(MULTIPLES)})\b", re.I)
LINKED_UNIT = re.compile(rf"\s?(?:to|and|or|by|–|-|,)\s?(?:{DIGITS}|{CARDINAL})\s?(?={UNIT})")

PRODUCTS = (
    "Python|MindSpore|MindNLP|mindtorch|torch|PyTorch|transformers|Transformers|optimum|FlashAttention|CUDA|CANN|tpu_mlir"
    "|TPU-MLIR|ONNX Runtime|opset|numpy|NumPy|Debian|Triton|torchao|ctranslate2|faster-whisper"
)
LABELS = "exercises?|notebooks?|claims?|sections?|chapters?|appendix|flaw|trick|level|step"
NO_MEASURE = rf"(?!\d|\.\d)(?!\s?{UNIT})"
NO_FIGURES = [
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"^```.*?^```", re.MULTILINE | re.DOTALL),
        (r"(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\1(?!`)", re.DOTALL),
        (r"\$\$.+?\$\$|\$(?=\S)[^$\n]+?(?<=\S)\$(?!\d)|\\\(.+?\\\)", re.DOTALL),
        (r"<!--.*?-->|<[A-Za-z/][^>]*>", re.DOTALL),
        (r"\]\([^)\s]*\)|\bhttps?://\S+", 0),
        (r"\[\d\d[a-z]? (?=[A-Z])", 0),  # a link's text "01 Measure a baseline"
        (r"^#+ +(?:\d+(?:\.\d+)+\b|\d+\.? (?=[A-Z]))|^\s*\d+[.)](?= )", re.MULTILINE),
        (rf"\b(?:{LABELS}) \d+[a-z]?(?:\.\d+)*(?:(?:,| and| to| or) \d+(?:\.\d+)*{NO_MEASURE})*{NO_MEASURE}", re.I),
        (rf"\b(?:{PRODUCTS})(?:'s)? \d+(?:\.\d+)*(?:(?:,| and| to| or) \d+(?:\.\d+)+{NO_MEASURE})*{NO_MEASURE}", 0),
        (r"(?<![A-Za-z0-9.])\d+\.\d+\.\d+(?:\.\d+)*\b|\b\d{4}-\d\d-\d\d\b", 0),  # versions and dates
        (r"\bO\([^)\n]*\)", 0),
        (r"(?<![A-Za-z0-9.])_|_(?![A-Za-z0-9])", 0),  # emphasis
        (r"(?<![A-Za-z0-9.])[A-Za-z]\w*(?:-\w+)*(?:\.\d+)*", 0),  # see _mask_name
        (r"\b(?:half|double)[- ]precision\b", re.IGNORECASE),
    )
]


@dataclass(frozen=True)
class Figure:
    """A number in prose: its place in the text, the values that it may mean, and what it is a unit of ("" if none)."""

    start: int
    end: int
    values: frozenset[float]
    kind: str = ""


@dataclass(frozen=True)
class Part:
    """A code cell, or a piece of a Markdown cell between two headings."""

    cell: int
    section: int
    text: str
    is_code: bool


@dataclass(frozen=True)
class Constant:
    """A number that may stand in prose where the text fits one of `what`, in which {} stands for the number."""

    number: float
    what: tuple[str, ...]
    source: str

    def allows(self, text: str, figure: Figure) -> bool:
        """Whether `figure` is this number, and stands in `text` beside these words."""
        return any(is_close(self.number, value) for value in figure.values) and any(
            fits(pattern, text, figure) for pattern in self.what
        )


# --- figures ----------------------------------------------------------------------------------------------------------


def mask(text: str) -> str:
    """`text` with everything that holds no figure replaced by ~, at the same length."""
    for pattern in NO_FIGURES:
        text = pattern.sub(_mask_name, text)
    return text


def _mask_name(match: re.Match) -> str:
    """A word without a digit stays: it may be a unit or a number word."""
    found = match.group()
    if re.fullmatch(r"[A-Za-z-]+", found) and not re.fullmatch(r"(?i)(half|double)-?precision", found):
        return found
    return re.sub(r"[^\n]", "~", found)


def find_figures(text: str) -> list[Figure]:
    """All figures in a piece of Markdown, in order."""
    masked = mask(text)
    found = [_read_number(masked, match) for match in NUMBER.finditer(masked)]
    found += [_read_cardinal(masked, match) for match in COUNTED.finditer(masked)]
    parts = [_read_part(match) for match in PART.finditer(masked)]
    found += parts
    for match in MULTIPLE.finditer(masked):
        if not any(part.start <= match.start() < part.end for part in parts):
            found.append(Figure(*match.span(), frozenset(_times(MULTIPLES.get(match.group().lower(), 10))), "ratio"))
    return sorted(found, key=lambda figure: figure.start)


def _read_number(text: str, match: re.Match) -> Figure:
    value = float(re.sub(r"[,\u00a0\u202f ]", "", match.group()))
    return _with_unit(text, match, value)


def _read_cardinal(text: str, match: re.Match) -> Figure:
    names = CARDINALS | LARGE | {"one": 1}
    return _with_unit(text, match, sum(names[name] for name in match.group().lower().split("-")))  # twenty-five


def _with_unit(text: str, match: re.Match, value: float) -> Figure:
    """The figure with the unit behind it; "20 to 30 %" gives its unit to both."""
    linked = LINKED_UNIT.match(text, match.end())
    unit = re.compile(rf"[\s-]?({UNIT})").match(text, linked.end() if linked else match.end())
    scale, kind = UNITS[unit.group(1)] if unit else (1, "")
    return Figure(*match.span(), frozenset({value, value * scale}), kind)


def _read_part(match: re.Match) -> Figure:
    count = CARDINALS.get(match.group(1).lower(), 1)
    whole = PARTS[match.group(2).lower()]
    return Figure(*match.span(), frozenset({count / whole, whole / count, 100 * count / whole}), "ratio")


def _times(factor: int) -> tuple[float, float]:
    return factor, 1 / factor


def is_close(left: float, right: float) -> bool:
    """Whether two numbers are one but for their sign and rounding in the last place."""
    return math.isclose(abs(left), abs(right), rel_tol=1e-9)


# --- what covers a figure ---------------------------------------------------------------------------------------------


def asserted_numbers(source: str) -> set[float]:
    """The numbers in a code cell's assertions that something computed is compared with.

    An index, the digits of `round`, a keyword such as `atol=`, and an assertion that names nothing, do not count.
    """
    tests = [node.test for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]
    named = [test for test in tests if any(isinstance(node, ast.Name) for node in ast.walk(test))]
    return {number for test in named for number in _literals(test)}


def _literals(node: ast.AST) -> Iterator[float]:
    value = _fold(node)
    if value is not None:
        yield value
    match node:
        case ast.Subscript():
            children = [node.value]
        case ast.Call(func=ast.Name(id="round")):
            children = node.args[:1]
        case ast.Call():
            children = [node.func, *node.args]
        case _:
            children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _literals(child)


OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def _fold(node: ast.AST) -> float | None:
    """The value of a literal, or of literals combined by + - * /."""
    match node:
        case ast.Constant(value=bool()):
            return None
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return None if (value := _fold(operand)) is None else -value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            values = _fold(left), _fold(right)
            return None if None in values else OPERATORS[type(op)](*values)
    return None


@functools.cache
def claim_figures(claim: Claim) -> list[Figure]:
    """The figures of one claim: what results are compared with, and what the article prints."""
    figure = [] if claim.check == "holds" else [f"{claim.figure!r} {claim.unit}"]
    texts = [*figure, *claim.quoted, claim.text, claim.setting]
    return [found for text in texts for found in find_figures(text)]


def is_claimed(figure: Figure, named: Iterable[Claim]) -> bool:
    """Whether one of the claims has this figure, in the same kind of unit where both have one."""
    return any(
        (figure.kind == other.kind or not (figure.kind and other.kind)) and _same_value(figure.values, other.values)
        for claim in named
        for other in claim_figures(claim)
    )


def _same_value(left: Iterable[float], right: Iterable[float]) -> bool:
    return any(is_close(a, b) for a in left for b in right)


def fits(pattern: str, text: str, figure: Figure) -> bool:
    """Whether the words of `pattern`, in which {} stands for the number, surround the figure in `text`."""
    before, after = (part.replace(" ", r"\s+") for part in pattern.split("{}"))
    plain = text.replace("*", "")  # emphasis may stand between the number and its words
    shift = text[: figure.start].count("*")
    start, end = figure.start - shift, figure.end - shift
    return bool(
        re.search(rf"(?<!\w)(?:{before})\Z", plain[:start], re.IGNORECASE)
        and re.match(rf"(?:{after})(?!\w)", plain[end:], re.IGNORECASE)
    )


def load_constants(path: Path = CONSTANTS) -> list[Constant]:
    """The allowed constants; CourseError where an entry is not whole, or a pattern does not hold {} once."""
    constants = []
    for entry in read_toml(path).get("constant", []):
        if set(entry) != {"number", "what", "source"} or not entry["source"].strip():
            raise CourseError(f"A constant needs number, what and source: {entry}.", where=path)
        what = (entry["what"],) if isinstance(entry["what"], str) else tuple(entry["what"])
        if not all(pattern.count("{}") == 1 and re.search(r"\w", pattern) for pattern in what):
            raise CourseError(f"Each `what` needs one {{}} and a word beside it: {what}.", where=path)
        constants.append(Constant(float(entry["number"]), what, entry["source"]))
    return constants


# --- the check --------------------------------------------------------------------------------------------------------


def split_parts(notebook: dict) -> list[Part]:
    """The notebook's code cells and pieces of prose; each heading begins a section."""
    parts, section = [], 0
    for index, cell in enumerate(notebook["cells"]):
        text = joined(cell["source"])
        if cell["cell_type"] == "code":
            parts.append(Part(index, section, text, True))
            continue
        for piece in re.split(r"^(?=#{1,6} )", text, flags=re.MULTILINE) if cell["cell_type"] == "markdown" else ():
            section += bool(re.match(r"#{1,6} ", piece))
            parts.append(Part(index, section, piece, False))
    return parts


def find_code_beside(parts: list[Part], place: int) -> list[Part]:
    """The runs of code cells right before and right after the prose at `place`, within its section.

    A section without code may take all code of the page.
    """
    section = [part for part in parts if part.section == parts[place].section]
    if not any(part.is_code for part in section):
        return [part for part in parts if part.is_code]
    here = next(number for number, part in enumerate(section) if part is parts[place])
    return [*_first_run(reversed(section[:here])), *_first_run(section[here + 1 :])]


def _first_run(parts: Iterable[Part]) -> list[Part]:
    """The first code cells without prose between them."""
    run: list[Part] = []
    for part in parts:
        if part.is_code:
            run.append(part)
        elif run:
            break
    return run


def named_claims(parts: list[Part], place: int, ledger: list[Claim]) -> list[Claim]:
    """The claims whose ids stand in the section of the part at `place`, as text or as a string in code."""
    section = "\n".join(part.text for part in parts if part.section == parts[place].section)
    ids = set(re.findall(r"\b[A-D]\d{1,2}\b", section))
    return [claim for claim in ledger if claim.id in ids]


def is_minutes(text: str, figure: Figure, notebook: dict) -> bool:
    """Whether it is the time that the page takes, as its metadata has it."""
    minutes = notebook["metadata"].get("lab", {}).get("minutes")
    return minutes in figure.values and fits("It takes {} minutes", text, figure)


def check(notebook: dict, ledger: list[Claim], constants: list[Constant]) -> list[str]:
    """One line for each figure in prose that nothing covers: cell, number with its words, what to do."""
    parts = split_parts(notebook)
    return [
        f"[{part.cell}] {part.text[figure.start : figure.end]!r} in {_surrounding(part.text, figure)!r}"
        for place, part in enumerate(parts)
        if not part.is_code
        for figure in _uncovered(parts, place, ledger)
        if not is_minutes(part.text, figure, notebook)
        and not any(constant.allows(part.text, figure) for constant in constants)
    ]


def _uncovered(parts: list[Part], place: int, ledger: list[Claim]) -> Iterator[Figure]:
    """The figures that neither an assertion nor a claim covers."""
    asserted = {number for part in find_code_beside(parts, place) for number in asserted_numbers(part.text)}
    named = named_claims(parts, place, ledger)
    for figure in find_figures(parts[place].text):
        if not _same_value(figure.values, asserted) and not is_claimed(figure, named):
            yield figure


def _surrounding(text: str, figure: Figure) -> str:
    return " ".join(text[max(0, figure.start - 35) : figure.end + 30].split())


ADVICE = (
    "Give each figure one of these: an assertion with that number in the code cell above or below; the sentence "
    "displayed by code from the value;\nthe id of the claim that it quotes; an entry in data/prose_constants.toml "
    "with its source; or words without a figure."
)


def main(arguments: list[str] | None = None) -> int:
    """Prints each notebook's uncovered figures; 1 when there was one."""
    parser = argparse.ArgumentParser(prog="tools/prose_numbers.py", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    ledger, constants, failed = claims.load(), load_constants(), False
    for path in options.notebooks:
        found = check(parse(path.read_text(encoding="utf-8")), ledger, constants)
        failed |= bool(found)
        print(f"{path.name}: {len(found)} {'figure' if len(found) == 1 else 'figures'} without support")
        print("".join(f"  {line}\n" for line in found), end="")
    print(ADVICE if failed else "every figure in prose is held by something")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
