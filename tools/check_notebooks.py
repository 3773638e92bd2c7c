"""The form of a committed notebook: one function gives its canonical text and its problems, for the test and `--fix`.

.venv/bin/python tools/check_notebooks.py [--fix] notebooks/*.ipynb
"""

from __future__ import annotations

import argparse
import functools
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from labsupport.base.errors import ClaimError, CourseError
from labsupport.base.paths import NOTEBOOKS, atomic_write
from labsupport.course import runner
from labsupport.course.notebook import SKIP_MIME, canonical, code_cells, dump, joined, parameters, parse, tags, title
from labsupport.machine.doctor import NEEDS
from labsupport.results import claims, sources

MAX_BYTES = 500_000
MAX_LINES = 15
SOFT_LINES = 4
PARAMETERS = {"backend", "model", "clip", "fast"}
LEVELS = ("first steps", "core", "advanced")
LEVEL_HEAD = "**Level**: "  # what the paragraph about the level and what to read before begins with
COURSE_MAP = "[course map](../README.md#the-course)"
IGNORE_OUTPUT = "nbval-ignore-output"
# Calls whose printed result differs from run to run or from machine to machine.
MEASURING = {
    "compare",
    "describe_machine",
    "find_roofline",
    "fraction",
    "peak_memory",
    "perf_counter",
    "process_time",
    "record",
}
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|Users|root|tmp|work|opt|mnt|usr|var)/[\w.]|\b[A-Za-z]:\\\w|site-packages")
DATA_URI = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,[A-Za-z0-9+/=\s]+")


def check(text: str, name: str = "") -> tuple[str, list[str]]:
    """The canonical text of a notebook, and a list of the problems in `text`.

    Whatever rewriting alone repairs is one problem, "not canonical"; the others need the author.

    name: of the course's page, without `.ipynb`, which then ends in links to the pages around it.

    Raises:
        CourseError: when `text` is no notebook of format 4.
    """
    notebook = with_links(with_head(canonical(parse(text))), name)
    result = dump(notebook)
    problems = ["not canonical: rewrite it with --fix"] if result != text else []
    problems += [problem for rule in RULES for problem in rule(notebook)]
    if len(result.encode()) > MAX_BYTES:
        problems.append(f"{len(result.encode()) / 1e3:.0f} kB; the limit is {MAX_BYTES / 1e3:.0f} kB")
    return result, problems


def with_head(notebook: dict) -> dict:
    """The same notebook, its first cell ending in the paragraphs on level and sources, both out of `metadata.lab`."""
    paragraphs = [each for each in (level_paragraph(notebook), _source_paragraph(notebook)[0]) if each]
    if not paragraphs or not notebook["cells"]:
        return notebook
    text = joined(notebook["cells"][0]["source"])
    for head in (LEVEL_HEAD, sources.HEAD):
        text = text.partition(f"\n\n{head}")[0]
    first = {**notebook["cells"][0], "source": "\n\n".join([text, *paragraphs])}
    return {**notebook, "cells": [first, *notebook["cells"][1:]]}


def level_paragraph(notebook: dict) -> str:
    """The page's level, and the pages to read before it; nothing where the metadata do not say."""
    lab = notebook["metadata"].get("lab")
    if (
        not isinstance(lab, dict)
        or lab.get("level") not in LEVELS
        or not set(lab.get("after", ())) <= set(page_titles())
    ):
        return ""
    before = ", ".join(map(page_link, lab.get("after", ()))) or "nothing"
    return f"{LEVEL_HEAD}{lab['level']}. **Read before it**: {before}."


def with_links(notebook: dict, name: str) -> dict:
    """The same notebook, its last cell ending in links to the page before it, the map, and the page after it."""
    names = list(page_titles())
    if name not in names or not notebook["cells"] or notebook["cells"][-1]["cell_type"] != "markdown":
        return notebook
    place = names.index(name)
    links = [f"\N{LEFTWARDS ARROW} {page_link(names[place - 1])}"] if place else []
    links += [COURSE_MAP, *(f"{page_link(after)} \N{RIGHTWARDS ARROW}" for after in names[place + 1 : place + 2])]
    paragraphs = joined(notebook["cells"][-1]["source"]).split("\n\n")
    paragraphs = [each for each in paragraphs if COURSE_MAP not in each]
    last = {**notebook["cells"][-1], "source": "\n\n".join([*paragraphs, " | ".join(links)])}
    return {**notebook, "cells": [*notebook["cells"][:-1], last]}


@functools.cache
def page_titles() -> dict[str, str]:
    """Name -> title of the course's pages, in order."""
    return {path.stem: title(runner.read(path)) for path in runner.find_notebooks()}


def page_link(name: str) -> str:
    return f"[{name.partition('_')[0]} {page_titles()[name]}]({name}.ipynb)"


def _source_paragraph(notebook: dict) -> tuple[str, str]:
    """The paragraph, or why there is none; neither where the rest of the metadata is wrong, or names no article."""
    lab = notebook["metadata"].get("lab")
    articles = lab.get("articles") if isinstance(lab, dict) else None
    if not articles or not isinstance(articles, list) or not set(articles) <= set(claims.ARTICLES):
        return "", ""
    ids = lab.get("sources", [])
    if not isinstance(ids, list):
        return "", "metadata.lab.sources must be a list"
    try:
        return sources.head_paragraph(articles, ids), ""
    except ClaimError as error:
        return "", f"metadata.lab.sources: {error.what}"


def median_lines(notebook: dict) -> float:
    """Median length of the code cells, in lines."""
    return statistics.median([len(joined(cell["source"]).splitlines()) for cell in code_cells(notebook)] or [0])


def _texts(cell: dict) -> Iterator[str]:
    """What a reader sees of a cell as text, without embedded pictures and sound."""
    yield joined(cell["source"])
    for output in cell.get("outputs", []):
        yield joined(output.get("text", ""))
        for mime, value in output.get("data", {}).items():
            if mime.startswith("text/"):
                yield DATA_URI.sub("", joined(value))


# --- rules: notebook -> problems --------------------------------------------------------------------------------------


def _title_problems(notebook: dict) -> Iterator[str]:
    if not title(notebook) or notebook["cells"][0]["cell_type"] != "markdown":
        yield "the first cell must be the title, a Markdown line `# ...`"


def _metadata_problems(notebook: dict) -> Iterator[str]:
    lab = notebook["metadata"].get("lab")
    if not isinstance(lab, dict):
        yield "metadata.lab is missing"
        return
    if not (isinstance(lab.get("promise"), str) and lab["promise"].strip()):
        yield "metadata.lab.promise must be a sentence"
    if not (isinstance(lab.get("minutes"), (int, float)) and lab["minutes"] > 0):
        yield "metadata.lab.minutes must be a number above 0"
    for key, known in (("needs", set(NEEDS)), ("backends", {"torch", "mindspore"}), ("articles", set("ABCD"))):
        values = lab.get(key)
        if not isinstance(values, list) or not set(values) <= known:
            yield f"metadata.lab.{key} must be a list out of {sorted(known)}, it is {values!r}"
    if not lab.get("backends"):
        yield "metadata.lab.backends names no backend"


def _level_problems(notebook: dict) -> Iterator[str]:
    lab = notebook["metadata"].get("lab")
    if isinstance(lab, dict):
        if lab.get("level") not in LEVELS:
            yield f"metadata.lab.level must be one of {', '.join(LEVELS)}"
        if unknown := set(lab.get("after", ())) - set(page_titles()):
            yield f"metadata.lab.after names no page of the course: {sorted(unknown)}"


def _source_problems(notebook: dict) -> Iterator[str]:
    if problem := _source_paragraph(notebook)[1]:
        yield problem


def _parameter_problems(notebook: dict) -> Iterator[str]:
    if sum("parameters" in tags(cell) for cell in code_cells(notebook)) != 1:
        yield "exactly one code cell must carry the tag `parameters`"
        return
    try:
        found = parameters(notebook)
    except CourseError as error:
        yield error.what
        return
    if missing := PARAMETERS - set(found):
        yield f"the parameters cell lacks {sorted(missing)}"
    if found.get("fast") is not True:
        yield "the parameters cell must say `fast = True`"


def _execution_problems(notebook: dict) -> Iterator[str]:
    cells = code_cells(notebook)
    counts = [cell["execution_count"] for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        yield f"not executed top to bottom, counts {counts}: use `lab run NOTEBOOK --save`"
    if not any(cell["outputs"] for cell in cells):
        yield "the outputs are stripped: use `lab run NOTEBOOK --save`"


def _length_problems(notebook: dict) -> Iterator[str]:
    for cell in code_cells(notebook):
        if (lines := len(joined(cell["source"]).splitlines())) > MAX_LINES:
            yield f"cell {cell['id']} has {lines} lines; the limit is {MAX_LINES}"


def _output_problems(notebook: dict) -> Iterator[str]:
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                yield f"cell {cell['id']} holds an error: {output.get('ename')}"
            if output.get("name") == "stderr":
                yield f"cell {cell['id']} holds stderr output: {joined(output['text'])[:60]!r}"
            if any("widget" in mime for mime in output.get("data", {})):
                yield f"cell {cell['id']} holds a widget, which a static page cannot show"


def _path_problems(notebook: dict) -> Iterator[str]:
    for cell in notebook["cells"]:
        for text in _texts(cell):
            if found := MACHINE_PATH.search(text):
                yield f"cell {cell['id']} names a path of one machine: {text[found.start() :][:40]!r}"


def _alt_problems(notebook: dict) -> Iterator[str]:
    for cell in code_cells(notebook):
        for data in (output.get("data", {}) for output in cell["outputs"]):
            images = re.findall(r"<img\b[^>]*>", joined(data.get("text/html", "")))
            if not all(re.search(r'\balt="[^"]+"', image) for image in images):
                yield f"cell {cell['id']} shows an <img> without alt text"
            # JupyterLab drops the alt text of a bare image/png; only HTML brings it to the reader.
            if not images and any(mime.startswith("image/") for mime in data):
                yield f"cell {cell['id']} shows an image without alt text: use plots.show(figure, alt=...)"


def _tag_problems(notebook: dict) -> Iterator[str]:
    for cell in code_cells(notebook):
        if not cell["outputs"] or IGNORE_OUTPUT in tags(cell):
            continue
        if calls := sorted(_called_names(joined(cell["source"])) & MEASURING):
            yield f"cell {cell['id']} prints what {calls} measured: tag it {IGNORE_OUTPUT}"
        if any(SKIP_MIME in output.get("data", {}) for output in cell["outputs"]):
            yield f"cell {cell['id']} skips on some machines only: tag it {IGNORE_OUTPUT}"


def _called_names(source: str) -> set[str]:
    return set(re.findall(r"\b(\w+)\s*\(", source))


RULES = (
    _title_problems,
    _metadata_problems,
    _level_problems,
    _source_problems,
    _parameter_problems,
    _execution_problems,
    _length_problems,
    _output_problems,
    _path_problems,
    _alt_problems,
    _tag_problems,
)


# --- the command ------------------------------------------------------------------------------------------------------


def check_file(path: Path, fix: bool) -> list[str]:
    """Problems of the notebook at `path`; with `fix`, it is rewritten first and only what is left comes back."""
    text, name = path.read_text(encoding="utf-8"), path.stem if path.resolve().parent == NOTEBOOKS else ""
    result, problems = check(text, name)
    if fix and result != text:
        with atomic_write(path) as part:
            part.write_text(result, encoding="utf-8", newline="\n")
        problems = check(result, name)[1]
    return problems


def main(arguments: list[str] | None = None) -> int:
    """Prints each notebook's problems and median cell length; 1 when there was a problem."""
    parser = argparse.ArgumentParser(prog="tools/check_notebooks.py", description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--fix", action="store_true", help="rewrite what a program can repair")
    options = parser.parse_args(arguments)
    failed = False
    for path in options.notebooks:
        problems = check_file(path, options.fix)
        failed |= bool(problems)
        lines = median_lines(parse(path.read_text(encoding="utf-8")))
        print(f"{path}: {len(problems)} problems; median code cell {lines:g} lines (goal {SOFT_LINES})")
        print("".join(f"  {problem}\n" for problem in problems), end="")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
