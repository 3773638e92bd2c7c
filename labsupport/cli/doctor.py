"""`lab doctor`: what this machine has, and what it lacks."""

from __future__ import annotations

from typing import Annotated

import typer

from labsupport.cli.printing import end, out


def doctor(
    online: Annotated[bool, typer.Option("--online", help="also ask whether the model hub answers")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the same as JSON, for programs")] = False,
) -> None:
    """Say what is here, what works, and what each missing thing would take; exit code 1 without a needed one."""
    from labsupport.course import console
    from labsupport.machine.doctor import examine, find_lacking, to_json

    checks = examine(online)
    lacking = find_lacking(checks)
    if as_json:
        print(to_json(checks))
    else:
        out.print("\n".join(console.check_lines(checks)), highlight=False)
        out.print(f"The lab cannot run without: {', '.join(lacking)}." if lacking else "The lab can run here.")
    end(not lacking)
