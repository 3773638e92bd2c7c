"""Executes notebooks, each in a fresh kernel of this interpreter; an interrupted run continues where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from labsupport.base.errors import CourseError, LabError, MachineError
from labsupport.base.paths import NOTEBOOKS, PAGE, atomic_write, require_checkout
from labsupport.course import notebook as notebook_format
from labsupport.course import outcomes
from labsupport.course.console import RunProgress, plain_text
from labsupport.course.outcomes import Failure, NotebookResult, Summary
from labsupport.machine import doctor
from labsupport.machine.backend import choose_backend

if TYPE_CHECKING:
    from labsupport.course.kernels import KernelLog

CELL_SECONDS = 600
MESSAGE_LENGTH = 600  # characters of an error that a result takes


# --- the run ----------------------------------------------------------------------------------------------------------


def run(
    notebooks: Sequence[str] = (),
    *,
    backend: str | None = None,
    parameters: dict[str, object] | None = None,
    timeout: float = 1800,
    cell_timeout: float = CELL_SECONDS,
    fresh: bool = False,
    folder: Path = NOTEBOOKS,
    console: Console | None = None,
) -> Summary:
    """Executes notebooks and stores each result under `lab_dir()/runs`.

    Args:
        notebooks: paths, names, or numbers like "01"; all of `folder` when empty.
        backend: "torch" or "mindspore"; None takes what each notebook and this machine have.
        parameters: values for the notebooks' `parameters` cells.
        timeout, cell_timeout: seconds that a notebook and a cell may take.
        fresh: execute everything, even what an interrupted run finished.
        folder: where the notebooks are, and the kernels' working folder.
        console: a rich Console for the progress; None makes one.

    Raises:
        CourseError: before anything is executed: unknown notebook, unknown parameter, or another run at work.
        KeyboardInterrupt: Ctrl-C, with a sentence on what is stored.
    """
    paths = find_notebooks(notebooks, folder)
    for path in paths:
        refuse_unknown_parameters(path, parameters or {})
    with outcomes.only_run(), RunProgress(console) as progress:
        run_id = outcomes.begin(fresh)
        task = Execution(folder, parameters or {}, timeout, cell_timeout, run_id)
        results: list[NotebookResult] = []
        reused: list[str] = []
        for path in progress.track(paths, task_id=progress.notebooks):
            with saying_what_is_stored(results, len(paths)):
                result, was_there = _run_or_reuse(path, backend, task, progress)
            results.append(result)
            reused += [path.stem] if was_there else []
            progress.report_result(result, was_there)
        outcomes.finish(run_id)
    return Summary(results, reused)


@contextlib.contextmanager
def saying_what_is_stored(results: Sequence[NotebookResult], total: int) -> Iterator[None]:
    """Ctrl-C inside it gets a message for the learner: what the same call need not do again."""
    try:
        yield
    except KeyboardInterrupt as stop:
        passed = sum(result.status == "passed" for result in results)
        text = f"{passed} of {total} notebooks passed and are stored; the same call without --fresh goes on after them."
        raise KeyboardInterrupt(text if passed else "No notebook was finished.") from stop


def find_notebooks(names: Sequence[str] = (), folder: Path = NOTEBOOKS) -> list[Path]:
    """Paths, names or numbers -> notebooks, in order; all of `folder` when there are no names.

    Raises:
        CourseError: when a name fits no notebook, or there is none at all.
    """
    if folder == NOTEBOOKS:
        require_checkout("The course")
    every = sorted(folder.glob(f"{PAGE}.ipynb"))
    if not names and not every:
        raise CourseError("There are no notebooks here.", where=folder)
    return [_find_notebook(name, every) for name in names] if names else every


def _find_notebook(name: str, every: list[Path]) -> Path:
    if Path(name).suffix == ".ipynb" and Path(name).is_file():
        return Path(name).resolve()
    wanted = Path(name).name.removesuffix(".ipynb")
    found = [path for path in every if path.stem == wanted or path.stem.startswith(f"{wanted}_")]
    if len(found) != 1:
        raise CourseError(f"No notebook is called {name!r}.", hint="one of: " + ", ".join(path.stem for path in every))
    return found[0]


def refuse_unknown_parameters(path: Path, parameters: dict[str, object]) -> None:
    """papermill only warns about a misspelt name and runs with the default.

    Raises:
        CourseError: when the notebook's `parameters` cell lacks one of the names. A notebook without such a cell, and
            one that cannot be read, is passed over here: it fails when its turn comes, and the others run.
    """
    try:
        notebook = read(path)
        known = notebook_format.parameters(notebook)
    except CourseError:
        return
    if not notebook_format.parameter_cells(notebook):
        return
    if unknown := sorted(set(parameters) - set(known)):
        raise CourseError(f"{path.stem} has no parameter {unknown[0]!r}.", hint=f"it has: {', '.join(known)}")


def read(path: Path) -> dict:
    """The notebook at `path` as plain dictionaries. Raises CourseError where it is none."""
    try:
        return notebook_format.parse(path.read_text(encoding="utf-8"))
    except CourseError as error:
        raise CourseError(error.what, where=path, hint=error.hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"The notebook cannot be read: {error}.", where=path) from error


@dataclass(frozen=True)
class Execution:
    """What all the notebooks of one run share."""

    folder: Path
    parameters: dict[str, object]
    timeout: float
    cell_timeout: float
    run: str


def _run_or_reuse(
    path: Path, backend: str | None, task: Execution, progress: RunProgress
) -> tuple[NotebookResult, bool]:
    """The notebook's result, and whether it is an earlier one. Whatever goes wrong with it is its failure alone."""
    try:
        notebook = read(path)
        chosen, reason = backend_for(notebook, backend)
        if task.parameters and not notebook_format.parameter_cells(notebook):
            raise CourseError("The notebook has no cell tagged `parameters`, which could take what was asked for.")
        if reason:
            return outcomes.store(NotebookResult(path.stem, chosen, "skipped", task.run, reason=reason)), False
        fingerprint = outcomes.compute_fingerprint(notebook, chosen, task.parameters)
        if earlier := outcomes.passed_before(path.stem, chosen, task.run, fingerprint):
            return earlier, True
        result = _execute(path, notebook, chosen, fingerprint, task, progress)
    except MachineError:  # the backend that was asked for: no notebook can run
        raise
    except Exception as error:  # noqa: BLE001  this place knows the notebook, and there are others to run
        failure = describe_failure(error)
        result = NotebookResult(path.stem, backend or choose_backend(), "failed", task.run, failure=failure)
    return outcomes.store(result), False


def describe_failure(error: Exception, log: KernelLog | None = None) -> Failure:
    """Any error as a notebook's failure, with the last that its kernel wrote past Jupyter."""
    what = str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
    last = log.read_end().strip() if log else ""
    message = plain_text(what)[:MESSAGE_LENGTH] + (f"\n{plain_text(last)}" if last else "")
    return Failure(outcomes.classify(message), message)


def backend_for(notebook: dict, chosen: str | None = None) -> tuple[str, str | None]:
    """The backend for this notebook, and why it cannot run here (None when it can).

    An unnamed choice is what the machine prefers, if the notebook is written for it, else what the notebook wants.
    """
    lab = notebook["metadata"].get("lab", {})
    written_for = lab.get("backends", ["torch"])
    if not written_for:
        raise CourseError("The notebook names no backend.", hint='write metadata.lab.backends, for example ["torch"]')
    backend = choose_backend(chosen)
    if backend not in written_for:
        if chosen:
            return backend, f"written for {' and '.join(written_for)}; this run uses {chosen}"
        backend = written_for[0]
    needs = dict.fromkeys([backend, *lab.get("needs", [])])
    if unknown := [need for need in needs if need not in doctor.NEEDS]:
        raise CourseError(f"The notebook needs {unknown[0]!r:.60}, which this version of the lab does not know.")
    return backend, next((reason for need in needs if (reason := doctor.missing(need))), None)


# --- one notebook -----------------------------------------------------------------------------------------------------


def _execute(
    path: Path, notebook: dict, backend: str, fingerprint: str, task: Execution, progress: RunProgress
) -> NotebookResult:
    output = outcomes.runs_dir() / f"{path.stem}.{backend}.ipynb"
    output.unlink(missing_ok=True)
    began, started = time.monotonic(), []

    def start_cell(cell: dict, cell_index: int) -> None:
        started.append(cell)
        progress.start_cell(cell, cell_index)

    progress.start_notebook(path.stem, len(notebook["cells"]) + 1)  # papermill adds a cell
    failure = _failure_of(path, output, backend, task, start_cell)
    executed = read(output) if output.exists() else {"cells": []}  # there is none where the kernel did not start
    failure = failure or unfinished(executed)
    added = "injected-parameters"  # the tag of papermill's cell
    cells = sum(cell["cell_type"] == "code" and added not in notebook_format.tags(cell) for cell in started)
    return NotebookResult(
        path.stem,
        backend,
        "failed" if failure else "passed",
        task.run,
        seconds=round(time.monotonic() - began, 2),
        cells=cells,
        skips=[plain_text(reason) for reason in notebook_format.skip_reasons(executed)],
        failure=dataclasses.replace(failure, cell=cells or None) if failure else None,
        fingerprint=fingerprint,
    )


def _failure_of(path: Path, output: Path, backend: str, task: Execution, start_cell: Callable) -> Failure | None:
    """Executes `path` into `output` with papermill; whatever it raises comes back as a Failure."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from labsupport.course import kernels

    deadline, log = time.monotonic() + task.timeout, kernels.KernelLog(output.with_suffix(".log"))
    try:
        papermill.execute_notebook(
            path,
            f"{kernels.MASKED}{output}",
            engine_name=kernels.ENGINE,
            parameters=task.parameters | {"backend": backend},
            kernel_name="python3",
            language="python",
            cwd=task.folder,
            progress_bar=False,
            kernel_manager_class=kernel_manager({"LAB_BACKEND": backend, **page_variables(path)}, log),
            timeout_func=lambda cell: max(1, math.ceil(min(task.cell_timeout, deadline - time.monotonic()))),
            on_cell_start=start_cell,
        )
    except PapermillExecutionError as error:
        message = plain_text(f"{error.ename}: {error.evalue}")
        cut = message if len(message) <= MESSAGE_LENGTH else f"{message[:MESSAGE_LENGTH]}..."
        return Failure(outcomes.classify(message), cut)
    except CellTimeoutError:
        if time.monotonic() >= deadline:
            return Failure("timeout", f"the notebook took longer than {task.timeout:g} s (--timeout)")
        return Failure("timeout", f"a cell took longer than {task.cell_timeout:g} s (--cell-timeout)")
    except DeadKernelError as error:
        # One killed for lack of memory leaves an empty log: the message names that as well.
        hint = "the process ended, most often for lack of memory or in native code"
        failure = describe_failure(error, log)
        return dataclasses.replace(failure, message=f"{hint}: {failure.message}")
    except Exception as error:  # noqa: BLE001  such as a kernel that dies at its start, or refuses to
        return describe_failure(error, log)
    return None


def page_variables(path: Path) -> dict[str, str]:
    """The environment of a run that makes a static page of this notebook: where its rows go, and no widgets."""
    return {"LAB_GROUP": path.stem, "LAB_STATIC_PAGE": "1"}


def unfinished(executed: dict) -> Failure | None:
    """A Failure when code cells were not executed although nothing raised.

    papermill takes a `SystemExit(0)` for the end of the notebook and returns as if all were well.
    """
    for cell in notebook_format.code_cells(executed):
        exited = any(output.get("ename") == "SystemExit" for output in cell["outputs"])
        left_out = cell["execution_count"] is None and notebook_format.joined(cell["source"]).strip()
        if exited or left_out:
            return Failure("other", "the notebook left before its end (SystemExit): cells did not run")
    return None


def kernel_manager(environment: dict[str, str], log: KernelLog | None = None) -> type:
    """A kernel manager whose kernels are this interpreter with `environment` on top of the process's own.

    What a kernel writes past Jupyter, such as the last lines of one that crashes, goes to `log`, else nowhere.
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    from labsupport.course.kernels import own_spec

    spec = own_spec(environment)

    class ThisInterpreter(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return spec

        async def _async_start_kernel(self, **options) -> None:
            with log.taking() if log else contextlib.nullcontext(subprocess.DEVNULL) as stream:
                await super()._async_start_kernel(stdout=stream, stderr=stream, **options)

        start_kernel = _async_start_kernel

    return ThisInterpreter


def execute_in_place(path: Path, *, cell_timeout: float = CELL_SECONDS) -> None:
    """Executes a notebook with its default parameters and saves it as it is committed, outputs included.

    Raises:
        CourseError: when it is no notebook, or a cell fails; the file stays as it was.
    """
    import nbformat

    from labsupport.course import kernels

    read(path)  # which says better what is wrong
    notebook = nbformat.read(path, as_version=4)
    client = kernels.Bounded(
        notebook,
        timeout=int(cell_timeout),
        kernel_name="python3",
        kernel_manager_class=kernel_manager(page_variables(path)),
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    try:
        client.execute()
    except Exception as error:  # of a cell, of the kernel, or of what runs it
        where = plain_text(f"{type(error).__name__}: {error}")
        raise CourseError(f"{path.stem} failed; it was not saved.", where=where) from error
    clean = notebook_format.canonical(notebook_format.parse(nbformat.writes(notebook)))
    with atomic_write(path) as part:
        part.write_text(notebook_format.dump(clean), encoding="utf-8", newline="\n")
