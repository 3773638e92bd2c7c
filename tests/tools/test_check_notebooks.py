import copy
import json
import re

import check_notebooks
import pytest
from check_notebooks import check

from labsupport.base import plots
from labsupport.base.errors import CourseError
from labsupport.base.paths import NOTEBOOKS
from labsupport.course import notebook as notebook_format
from labsupport.results.sources import HEAD, head_paragraph

PARAMETERS = 'backend = ""\nmodel = "tiny.en"\nclip = "jfk"\nfast = True'
LEVEL = "**Level**: core. **Read before it**: nothing."
NOTEBOOK_PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))


def code(number, source, *outputs, tags=()):
    metadata = {"tags": list(tags)} if tags else {}
    cell = {"cell_type": "code", "execution_count": number, "id": f"code-{number}", "metadata": metadata}
    return cell | {"outputs": list(outputs), "source": source}


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data):
    return {"output_type": "display_data", "metadata": {}, "data": data}


@pytest.fixture
def notebook():
    """A notebook with nothing wrong."""
    lab = {"promise": "You will add.", "minutes": 1, "needs": [], "backends": ["torch"], "articles": ["A"]}
    lab |= {"level": "core", "after": []}
    head = f"# Adding\n\n**You will** add.\n\n{LEVEL}\n\n{head_paragraph(['A'])}"
    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": head}
    cells = [title, code(1, PARAMETERS, tags=["parameters"]), code(2, "print(1 + 1)", stream("2\n"))]
    metadata = {"kernelspec": notebook_format.KERNELSPEC, "language_info": {"name": "python"}, "lab": lab}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def problems(notebook):
    """What is wrong beyond what rewriting repairs."""
    return check(check(json.dumps(notebook))[0])[1]


def test_a_good_notebook_has_no_problems_and_its_text_stays(notebook):
    text = notebook_format.dump(notebook)
    assert check(text) == (text, [])
    assert text.endswith("}\n")
    assert text.startswith('{\n "cells"')


def test_rewriting_repairs_what_tools_leave_behind_and_says_so(notebook):
    messy = copy.deepcopy(notebook)
    messy["metadata"] |= {"widgets": {"state": {}}, "papermill": {"duration": 3.0}}
    messy["metadata"]["language_info"] = {"name": "python", "version": "3.11.7"}
    messy["metadata"]["kernelspec"] = {"name": "my-env", "display_name": "mine"}
    messy["cells"][2]["metadata"] = {"execution": {"iopub.execute_input": "2026-01-01"}, "papermill": {"status": "x"}}
    text, found = check(json.dumps(messy))
    assert text == notebook_format.dump(notebook)
    assert found == ["not canonical: rewrite it with --fix"]


@pytest.mark.parametrize(
    "paragraph",
    ["", f"\n\n{HEAD}article A, somewhere.", "\n\n**Level**: hard.", f"\n\n{LEVEL}", f"\n\n{HEAD}A.\n\n{LEVEL}"],
)
def test_a_head_without_its_sources_or_with_others_is_written_anew(notebook, paragraph):
    good = notebook_format.dump(notebook)
    notebook["cells"][0]["source"] = f"# Adding\n\n**You will** add.{paragraph}"
    assert check(notebook_format.dump(notebook)) == (good, ["not canonical: rewrite it with --fix"])


def test_the_head_links_what_to_read_before(notebook):
    notebook["metadata"]["lab"]["after"] = ["00_start_here", "06_static_kv_cache"]
    head = json.loads(check(json.dumps(notebook))[0])["cells"][0]["source"]
    links = "[00 Start here](00_start_here.ipynb), [06 A cache that never grows](06_static_kv_cache.ipynb)"
    assert f"**Read before it**: {links}." in "".join(head)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("00_start_here", "", "00b_"), ("03_attention_modes", "02_", "04_"), ("15_put_it_together", "14_", "")],
)
def test_a_page_ends_in_links_to_those_around_it_and_to_the_map(notebook, name, before, after):
    old = f"- One.\n\n\u2190 [99 Another](99.ipynb) | {check_notebooks.COURSE_MAP}"
    notebook["cells"].append({"cell_type": "markdown", "id": "end", "metadata": {}, "source": old})
    text, found = check(json.dumps(notebook), name)
    assert found == ["not canonical: rewrite it with --fix"]
    assert check(text, name) == (text, [])
    end = "".join(json.loads(text)["cells"][-1]["source"])
    links = re.findall(r"\]\((\S+)\)", end)
    assert [link[: len(part)] for link, part in zip(links, (p for p in (before, "../", after) if p), strict=True)] == [
        part for part in (before, "../", after) if part
    ]
    assert end.startswith("- One.\n\n")
    assert (("\u2190" in end), ("\u2192" in end)) == (bool(before), bool(after))


def test_missing_and_repeated_ids_are_replaced_by_stable_ones(notebook):
    del notebook["cells"][0]["id"]
    notebook["cells"][2]["id"] = notebook["cells"][1]["id"]
    first, second = check(json.dumps(notebook))[0], check(json.dumps(notebook))[0]
    assert first == second == check(first)[0]
    assert len({cell["id"] for cell in json.loads(first)["cells"]}) == 3


def image(alt):
    return shown(**{"text/html": f'<img alt="{alt}" src="data:image/png;base64,AAAA">'})


FAULTS = {
    "the title": lambda nb: nb["cells"][0].update(source="Adding"),
    "metadata.lab is missing": lambda nb: nb["metadata"].pop("lab"),
    "promise": lambda nb: nb["metadata"]["lab"].update(promise=" "),
    "minutes": lambda nb: nb["metadata"]["lab"].update(minutes="12"),
    "needs": lambda nb: nb["metadata"]["lab"].update(needs=["a telescope"]),
    "names no backend": lambda nb: nb["metadata"]["lab"].update(backends=[]),
    "articles": lambda nb: nb["metadata"]["lab"].update(articles=["E"]),
    "level must be": lambda nb: nb["metadata"]["lab"].pop("level"),
    "'99_no_such_page'": lambda nb: nb["metadata"]["lab"].update(after=["99_no_such_page"]),
    "'no-such-source'": lambda nb: nb["metadata"]["lab"].update(sources=["no-such-source"]),
    "sources must be a list": lambda nb: nb["metadata"]["lab"].update(sources="gptq"),
    "exactly one code cell": lambda nb: nb["cells"][1].update(metadata={}),
    "lacks ['clip']": lambda nb: nb["cells"][1].update(source=PARAMETERS.replace("clip", "klip")),
    "fast = True": lambda nb: nb["cells"][1].update(source=PARAMETERS.replace("True", "False")),
    "only lines like": lambda nb: nb["cells"][1].update(source=PARAMETERS + "\nimport os"),
    "counts [1, 3]": lambda nb: nb["cells"][2].update(execution_count=3),
    "stripped": lambda nb: nb["cells"][2].update(outputs=[]),
    "16 lines": lambda nb: nb["cells"][2].update(source="\n".join(["x = 1"] * 16)),
    "holds an error": lambda nb: nb["cells"][2]["outputs"].append(
        {"output_type": "error", "ename": "ValueError", "evalue": "x", "traceback": []}
    ),
    "stderr": lambda nb: nb["cells"][2]["outputs"].append(stream("warning", "stderr")),
    "a widget": lambda nb: nb["cells"][2]["outputs"].append(
        shown(**{"application/vnd.jupyter.widget-view+json": {"model_id": "1"}})
    ),
    "names a path of one machine": lambda nb: nb["cells"][2]["outputs"].append(stream("read /home/ann/x.wav")),
    "'/root/.pyenv": lambda nb: nb["cells"][2]["outputs"].append(stream("| yes | /root/.pyenv/bin/python3.10 |")),
    "'C:": lambda nb: nb["cells"][2]["outputs"].append(stream("C:\\Users\\ann")),
    "<img> without alt": lambda nb: nb["cells"][2]["outputs"].append(image("")),
    "use plots.show": lambda nb: nb["cells"][2]["outputs"].append(shown(**{"image/png": "AAAA"})),
    "['compare'] measured": lambda nb: nb["cells"][2].update(source="measure.compare({})"),
    "skips on some machines": lambda nb: nb["cells"][2]["outputs"].append(
        shown(**{notebook_format.SKIP_MIME: {"reason": "no CUDA"}})
    ),
    "the limit is 500 kB": lambda nb: nb["cells"][2]["outputs"].append(stream("x" * 500_000)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_found_and_nothing_else(notebook, fault):
    assert problems(notebook) == []
    FAULTS[fault](notebook)
    found = problems(notebook)
    assert len(found) == 1
    assert fault in found[0]


def test_what_is_allowed_is_not_reported(notebook):
    cell = notebook["cells"][2]
    cell["metadata"] = {"tags": ["nbval-ignore-output"]}
    cell["source"] = "measure.compare({})"
    cell["outputs"] += [image("a bar of 2 ms"), shown(**{notebook_format.SKIP_MIME: {"reason": "no CUDA"}})]
    cell["outputs"].append(stream("see https://example.org/home/page and either/or"))
    assert problems(notebook) == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"nbformat": 3, "cells": []}'])
def test_what_is_no_notebook_is_a_clear_error(text):
    with pytest.raises(CourseError):
        check(text)


def test_the_command_fixes_what_it_can_and_fails_on_the_rest(notebook, tmp_path, capsys):
    path = tmp_path / "01_a.ipynb"
    path.write_text(json.dumps(notebook))
    assert check_notebooks.main([str(path)]) == 1
    assert check_notebooks.main([str(path), "--fix"]) == 0
    assert path.read_text() == notebook_format.dump(notebook)
    notebook["cells"][2]["outputs"] = []
    path.write_text(json.dumps(notebook))
    assert check_notebooks.main([str(path), "--fix"]) == 1
    assert "stripped" in capsys.readouterr().out


def test_a_shown_plot_has_alt_text_where_jupyterlab_keeps_it(notebook, monkeypatch):
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: outputs.append(shown(**data)))
    plots.show(plots.bars({"a": 1.0}, "s", "Time"), alt='One bar, "a", of 1 s')
    notebook["cells"][2]["outputs"] += outputs
    assert problems(notebook) == []
    assert 'alt="One bar, &quot;a&quot;, of 1 s"' in outputs[0]["data"]["text/html"]
    with pytest.raises(ValueError, match="alt text"):
        plots.show(plots.bars({"a": 1.0}, "s", "Time"), alt="")


@pytest.mark.parametrize("path", NOTEBOOK_PATHS, ids=lambda path: path.stem)
def test_the_committed_notebook_is_in_order(path):
    text = path.read_text(encoding="utf-8")
    assert check(text, path.stem)[1] == []
