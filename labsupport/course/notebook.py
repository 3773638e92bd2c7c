"""A notebook as plain dictionaries: read, rewritten in canonical form, written."""

from __future__ import annotations

import ast
import hashlib
import json

from labsupport.base.errors import CourseError

SKIP_MIME = "application/vnd.speech-lab.skip+json"
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def parse(text: str) -> dict:
    """Notebook text -> its JSON as plain dictionaries.

    Raises:
        CourseError: when `text` is no notebook of format 4.
    """
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CourseError("This is no notebook: its JSON cannot be read.", where=error) from error
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or "cells" not in notebook:
        raise CourseError("This is no notebook of format 4.", hint="open it in JupyterLab and save it again")
    if problem := find_problem(notebook):
        raise CourseError(f"This is no notebook: {problem}.", hint="open it in JupyterLab and save it again")
    return notebook


def find_problem(notebook: dict) -> str | None:
    """What the rest of this module could not read: metadata, cells or outputs that are not what they must be."""
    if not isinstance(notebook.get("metadata"), dict) or not isinstance(notebook["cells"], list):
        return "its metadata or cells are damaged"
    if not is_lab_metadata(notebook["metadata"].get("lab", {})):
        return "its metadata for the lab are damaged"
    for number, cell in enumerate(notebook["cells"], 1):
        if not is_cell(cell):
            return f"its cell {number} is damaged"
    return None


def is_lab_metadata(lab: object) -> bool:
    """Whether `backends` and `needs` are lists of names, where they are given."""
    return isinstance(lab, dict) and is_names(lab.get("backends", [])) and is_names(lab.get("needs", []))


def is_names(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def is_cell(cell: object) -> bool:
    if not isinstance(cell, dict) or not isinstance(cell.get("cell_type"), str) or not is_text(cell.get("source")):
        return False
    metadata = cell.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("tags", []), list):
        return False
    return cell["cell_type"] != "code" or (
        "execution_count" in cell and isinstance(cell.get("outputs"), list) and all(map(is_output, cell["outputs"]))
    )


def is_output(output: object) -> bool:
    return isinstance(output, dict) and isinstance(output.get("data", {}), dict)


def is_text(text: object) -> bool:
    """Whether it is one string, or a list of lines."""
    return isinstance(text, str) or (isinstance(text, list) and all(isinstance(line, str) for line in text))


def dump(notebook: dict) -> str:
    """The one way this repository writes a notebook: sorted keys, indent 1, text in lines, a newline at the end."""
    import nbformat

    return nbformat.writes(nbformat.from_dict(notebook)).rstrip("\n") + "\n"


def canonical(notebook: dict) -> dict:
    """The same notebook without what tools leave behind: timings, widget state, versions, missing cell ids."""
    metadata: dict = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    if "lab" in notebook.get("metadata", {}):
        metadata["lab"] = notebook["metadata"]["lab"]
    cells = [_canonical_cell(cell) for cell in notebook["cells"]]
    return {"cells": _with_ids(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _canonical_cell(cell: dict) -> dict:
    clean = {key: value for key, value in cell.items() if key != "attachments" or value}
    clean["metadata"] = {key: cell["metadata"][key] for key in ("jupyter", "tags") if cell["metadata"].get(key)}
    clean["source"] = joined(cell["source"])
    if cell["cell_type"] == "code":
        clean["outputs"] = [_canonical_output(output) for output in cell["outputs"]]
    return clean


def _canonical_output(output: dict) -> dict:
    output = dict(output)
    if output["output_type"] == "stream":
        output["text"] = joined(output["text"])
    if "data" in output:
        data = output["data"].items()
        output["data"] = {mime: value if mime.endswith("json") else joined(value) for mime, value in data}
    return output


def _with_ids(cells: list[dict]) -> list[dict]:
    """A missing or repeated id comes from the cell's place and source, so that fixing twice gives the same text."""
    taken: set[str] = set()
    for index, cell in enumerate(cells):
        if cell.get("id") in taken or not cell.get("id"):
            cell["id"] = hashlib.sha256(f"{index}\n{cell['source']}".encode()).hexdigest()[:8]
        taken.add(cell["id"])
    return cells


def joined(text: str | list[str]) -> str:
    """Notebook text may be stored as one string or as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def code_cells(notebook: dict) -> list[dict]:
    """The code cells, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def tags(cell: dict) -> list[str]:
    """The cell's tags."""
    return cell["metadata"].get("tags", [])


def title(notebook: dict) -> str:
    """The first cell's heading without its mark; empty when there is none."""
    first = joined(notebook["cells"][0]["source"]) if notebook["cells"] else ""
    return first.splitlines()[0].removeprefix("# ").strip() if first.startswith("# ") else ""


def parameter_cells(notebook: dict) -> list[dict]:
    """The code cells tagged `parameters`."""
    return [cell for cell in code_cells(notebook) if "parameters" in tags(cell)]


def parameters(notebook: dict) -> dict[str, object]:
    """Names and default values in the cell tagged `parameters`; empty when there is no such cell.

    Raises:
        CourseError: when the cell holds anything but assignments of literals.
    """
    found: dict[str, object] = {}
    for cell in parameter_cells(notebook):
        try:
            found |= dict(map(_read_assignment, ast.parse(joined(cell["source"])).body))
        except (SyntaxError, ValueError) as error:
            raise CourseError("The parameters cell may hold only lines like `name = value`.", where=error) from error
    return found


def _read_assignment(statement: ast.stmt) -> tuple[str, object]:
    """Raises ValueError unless the statement is `name = literal`."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, ast.literal_eval(value)
    raise ValueError(f"line {statement.lineno} is no assignment of a literal")


def skip_reasons(notebook: dict) -> list[str]:
    """The reasons that `skip` showed in this executed notebook, in order."""
    outputs = [output for cell in code_cells(notebook) for output in cell["outputs"]]
    shown = [output["data"][SKIP_MIME] for output in outputs if SKIP_MIME in output.get("data", {})]
    return [str(skip.get("reason")) if isinstance(skip, dict) else str(skip) for skip in shown]
