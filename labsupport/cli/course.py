"""`lab run`, `test`, `open`, `setup`, `update`, `report` and `progress`: the course around the notebooks."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from labsupport.base.errors import NotAvailable
from labsupport.cli.options import check_finite
from labsupport.cli.printing import end, out, print_line, stoppable

FURTHER_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}  # settings of the context of `test`


def run(
    notebooks: Annotated[list[str] | None, typer.Argument(help="names or numbers; all when none is given")] = None,
    backend: Annotated[Literal["torch", "mindspore"] | None, typer.Option(help="the framework to compute with")] = None,
    fast: Annotated[bool, typer.Option("--fast/--full", help="a short run, or the one whose numbers count")] = True,
    model: Annotated[str | None, typer.Option(help="a packaged name, a folder or a hub id")] = None,
    clip: Annotated[str | None, typer.Option(help="a clip's name")] = None,
    timeout: Annotated[
        float, typer.Option(min=1, callback=check_finite, help="seconds that a notebook may take")
    ] = 1800,
    cell_timeout: Annotated[
        float, typer.Option(min=1, callback=check_finite, help="seconds that a cell may take")
    ] = 600,
    fresh: Annotated[bool, typer.Option("--fresh", help="repeat what an interrupted run finished")] = False,
    save: Annotated[bool, typer.Option("--save", help="authors: execute and save the notebook in place")] = False,
) -> None:
    """Execute notebooks, then write the report. An interrupted run continues where it stopped."""
    from labsupport.course import console, report, runner

    named = {"fast": fast, "model": model, "clip": clip}
    if save:
        if backend or named != {"fast": True, "model": None, "clip": None}:
            raise typer.BadParameter("--save takes a notebook's own parameters: the committed page shows the defaults")
        for path in runner.find_notebooks(notebooks or ()):
            with stoppable(f"{path.name} is as it was."):
                runner.execute_in_place(path, cell_timeout=cell_timeout)
            print_line(f"saved {path.name}")
        raise typer.Exit
    with stoppable():
        summary = runner.run(
            notebooks or (),
            backend=backend,
            parameters={name: value for name, value in named.items() if value is not None},
            timeout=timeout,
            cell_timeout=cell_timeout,
            fresh=fresh,
            console=out,
        )
    out.print(console.summarise(summary), highlight=False)
    out.print(f"report: {report.write()}", highlight=False)
    end(summary.ok)


def test(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="what needs no packaged model and no notebook")] = False,  # noqa: PT028
    soak: Annotated[bool, typer.Option("--soak", help="the tests that take minutes each, alone")] = False,  # noqa: PT028
    durations: Annotated[bool, typer.Option("--durations", help="print where the time went")] = False,  # noqa: PT028
) -> None:
    """Check the code, run the tests on both frameworks, and every notebook. Further arguments go to pytest."""
    from labsupport.course import testing

    if quick and soak:
        raise typer.BadParameter("--quick and --soak exclude each other.")
    with stoppable():
        passed = testing.run(context.args, "quick" if quick else "soak" if soak else "all", durations, print_line)
    end(passed)


def open_lab(
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open a browser window")] = True,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8888,
    allow_root: Annotated[bool, typer.Option("--allow-root", help="in a container whose only user is root")] = False,
) -> None:
    """Start JupyterLab on this machine alone, on the first notebook; the printed address holds its token."""
    from labsupport.course import jupyter

    raise typer.Exit(jupyter.serve(browser, port, allow_root))


def setup() -> None:
    """Make the environment, or check and repair it. `./lab` itself does this, before anything is installed."""
    hint = "`./lab setup` in the course's folder makes and repairs its own."
    raise NotAvailable("This environment was made in another way, or is in use.", hint=hint)


def update(
    local: Annotated[bool, typer.Option("--local", help="fetch nothing: merge what the course's folder holds")] = False,
) -> None:
    """Fetch the course's new version, and merge its pages into your copy. Your own changes stay."""
    from labsupport.course import updates, working_copy

    if not local:
        updates.fetch()  # and then this command, in the new version
    changed = working_copy.update()
    for page in changed:
        print_line(f"{page.name}: {page.status}")
        for cell in page.conflicts:
            print_line(f"  cell {cell}: changed by you and by the course; yours stays")
    print_line(f"Your notebooks: {working_copy.folder()}" + ("" if changed else ", up to date"))


def report(
    show: Annotated[bool, typer.Option("--open", help="show it in a browser")] = False,
) -> None:
    """Write the report of what was run and measured so far, one HTML file."""
    from labsupport.course import report as pages

    path = pages.write()
    out.print(f"report: {path}", highlight=False)
    if show:
        typer.launch(path.as_uri())


def progress(
    notebook: Annotated[str | None, typer.Argument(help="a name or number; all when none is given")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="forget what was tried and solved")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask before --reset")] = False,
) -> None:
    """List the exercises, and which of them you have solved."""
    from labsupport.course import attempts, console, exercises, runner

    everything = exercises.progress()
    if notebook:
        (path,) = runner.find_notebooks([notebook])
        everything = {path.stem: everything.get(path.stem, [])}
    ids = [exercise.id for items in everything.values() for exercise, _ in items]
    if reset:
        if not yes:
            typer.confirm(f"Forget what was tried and solved of {notebook or 'all notebooks'}?", abort=True)
        attempts.reset(ids)
        everything = {name: [(exercise, False) for exercise, _ in items] for name, items in everything.items()}
    out.print(console.progress_table(everything))
    done = [solved for items in everything.values() for _, solved in items]
    out.print(f"{sum(done)} of {len(done)} exercises solved", highlight=False)
