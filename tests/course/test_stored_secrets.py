"""No secret reaches the stored copy of a notebook, its record or the report."""

from __future__ import annotations

import nbformat
import pytest

from labsupport.base.paths import lab_dir
from labsupport.course import report, runner

CELLS = (
    'backend = "torch"\nmodel = ""',
    "import time\nfor half in ('in-two-', 'pieces'): print(half, end='', flush=True); time.sleep(0.2)",
    "import os; os.system('echo past $MY_TOKEN Jupyter')",
    "import os, sys; print(os.environ['MY_TOKEN']); print(os.environ['HF_ENDPOINT'], file=sys.stderr)",
    "from IPython.display import HTML; HTML(os.environ['MY_TOKEN'])",
    "raise ConnectionError(os.environ['HF_ENDPOINT'] + ' refused ' + os.environ['MY_TOKEN'])",
)

SOURCE = (b"'in-two-', 'pieces'", b"")  # as the cell itself has it


@pytest.mark.slow
def test_what_cells_print_show_and_raise_is_stored_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "correct-horse")
    monkeypatch.setenv("SPLIT_TOKEN", "in-two-pieces")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:battery-staple@hub.example")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, tmp_path / "01_a.ipynb")
    monkeypatch.setattr(report, "ladder_plot", lambda ladder: "")
    (result,) = runner.run(folder=tmp_path, parameters={"model": "https://me:given-as-model@host/x"}).results
    assert result.failure.message == "ConnectionError: https://***@hub.example refused ***"
    report.write()
    texts = {path.name: path.read_bytes() for path in lab_dir().rglob("*") if path.is_file()}
    assert {"01_a.torch.ipynb", "01_a.torch.json", "report.html"} <= set(texts)
    secrets = (b"correct-horse", b"battery-staple", b"given-as-model", b"pieces")
    assert not [(name, secret) for name, text in texts.items() for secret in secrets if secret in text.replace(*SOURCE)]
    assert b"past *** Jupyter" in texts["01_a.torch.log"]
    assert b"https://***@host/x" in texts["01_a.torch.ipynb"]
