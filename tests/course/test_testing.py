"""What `./lab test` would run: sessions, workers, checks, and the table of durations. Nothing of it is started here."""

import os
import re
import subprocess
import sys

import pytest

from labsupport.base.errors import NotAvailable
from labsupport.base.paths import ROOT
from labsupport.course import runner, testing
from labsupport.machine import doctor, os_info

MINDSPORE, BOTH = (f"pytestmark = pytest.mark.{name}\n" for name in ("mindspore", "both_backends"))


@pytest.fixture(autouse=True)
def everything_here(monkeypatch):
    monkeypatch.setattr(doctor, "missing", lambda need: None)


@pytest.fixture
def one_notebook(monkeypatch):
    monkeypatch.setattr(runner, "find_notebooks", lambda: [ROOT / "notebooks" / "01_a.ipynb"])
    monkeypatch.setattr(runner, "read", lambda path: {"metadata": {"lab": {"needs": ["ascend"]}}})


@pytest.fixture
def started(monkeypatch):
    """Commands that would be started, by module and backend; each ends with `codes[its module]` or 0."""
    calls = {"codes": {}}

    def start(command, **options):
        command = command[command.index(sys.executable, 1) :]  # without what ends it with its parent
        module = command[2] if command[1] == "-m" else "importlinter"
        key = (module, options["env"]["LAB_BACKEND"]) if module == "pytest" else module
        calls[key] = (command[3:], options.get("env"))
        return subprocess.CompletedProcess(command, calls["codes"].get(module, 0), "", "")

    monkeypatch.setattr(testing.subprocess, "run", start)
    return calls


def run(*arguments, tier="all", durations=False):
    lines = []
    return testing.run(arguments, tier, durations, lines.append), "\n".join(lines)


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_torch_takes_the_notebooks_first_then_all_tests_and_mindspore_the_tests(one_notebook):
    sessions = testing.plan_sessions(["-x", "-k", "data"], "all", print)
    assert [(session.backend, session.arguments) for session in sessions] == [
        ("torch", (os.path.join("notebooks", "01_a.ipynb"), "tests", "-x", "-k", "data")),
        ("mindspore", ("tests", "-x", "-k", "data")),
    ]


def test_the_longest_notebooks_come_first(monkeypatch):
    minutes = {"01_a.ipynb": 10, "02_b.ipynb": 30, "03_c.ipynb": 20}
    monkeypatch.setattr(runner, "find_notebooks", lambda: [ROOT / "notebooks" / name for name in minutes])
    monkeypatch.setattr(runner, "read", lambda path: {"metadata": {"lab": {"minutes": minutes[path.name]}}})
    assert [path[-7] for path in testing.comparable_notebooks(print)] == ["b", "c", "a"]


def test_a_page_for_mindspore_alone_is_left_to_its_session(monkeypatch):
    page = {"metadata": {"lab": {"minutes": 1, "backends": ["mindspore"]}}}
    monkeypatch.setattr(runner, "find_notebooks", lambda: [ROOT / "notebooks" / "01_a.ipynb"])
    monkeypatch.setattr(runner, "read", lambda path: page)
    said = []
    assert list(testing.comparable_notebooks(said.append)) == []
    assert said == ["not compared with its stored output: 01_a.ipynb: written for mindspore; this run uses torch"]


def test_quick_is_torch_without_notebooks(one_notebook):
    assert testing.plan_sessions([], "quick", print) == [testing.Session("torch", ("tests",))]


def test_soak_is_both_frameworks_without_notebooks(one_notebook):
    both = [testing.Session("torch", ("tests",)), testing.Session("mindspore", ("tests",))]
    assert testing.plan_sessions([], "soak", print) == both


def test_what_cannot_run_here_is_said_with_its_reason(one_notebook, monkeypatch):
    reasons = {"mindspore": "left out on purpose", "ascend": "needs Ascend"}
    monkeypatch.setattr(doctor, "missing", reasons.get)
    lines = []
    assert testing.plan_sessions([], "all", lines.append) == [testing.Session("torch", ("tests",))]
    assert lines == [
        "not compared with its stored output: 01_a.ipynb: needs Ascend",
        "MindSpore's tests did not run: left out on purpose",
    ]


@pytest.mark.parametrize(
    ("text", "backends"),
    [("", {"torch"}), (MINDSPORE, {"mindspore"}), (BOTH, {"torch", "mindspore"})],
)
def test_a_file_runs_where_its_marker_says(monkeypatch, tmp_path, text, backends):
    monkeypatch.setattr(testing, "ROOT", tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(text)
    for path in ("tests/test_a.py", "tests/test_a.py::test_x[1]", "tests"):
        sessions = testing.plan_sessions([path, "-q"], "all", print)
        assert {session.backend for session in sessions} == backends
        assert {session.arguments for session in sessions} == {(path, "-q")}


def test_a_named_notebook_is_compared_on_torch():
    named = testing.plan_sessions(["notebooks/00_start_here.ipynb"], "all", print)
    assert named == [testing.Session("torch", ("notebooks/00_start_here.ipynb",))]


@pytest.mark.parametrize(
    ("cores", "gigabytes", "named", "tier", "workers"),
    [
        (2, 24, False, "all", 2),
        (8, 32, False, "soak", 4),
        (8, 32, False, "quick", 8),
        (1, 24, False, "all", 0),
        (2, 12, False, "all", 0),
        (2, 24, True, "all", 0),
    ],
)
def test_as_many_processes_as_cores_and_memory_allow(monkeypatch, cores, gigabytes, named, tier, workers):
    monkeypatch.setattr(os_info, "usable_cores", lambda: cores)
    monkeypatch.setattr(os_info, "usable_memory", lambda: gigabytes * 2**30)
    options, environment = testing.split_work(named, tier)
    assert options[:2] == (["-n", str(workers)] if workers else [])
    assert environment == ({"OMP_NUM_THREADS": "1"} if workers else {})


# --- the run ----------------------------------------------------------------------------------------------------------


def test_ctrl_c_waits_for_no_check(started, monkeypatch):
    ended = []

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(testing, "run_session", interrupt)
    monkeypatch.setattr(testing.children, "end_descendants", lambda: ended.append(True))
    with pytest.raises(KeyboardInterrupt):
        run("tests/test_house.py")
    assert ended == [True]


def test_a_run_checks_the_code_and_both_frameworks_away_from_the_learners_results(started, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    passed, output = run()
    assert passed
    assert {"ruff", "importlinter", "mypy", ("pytest", "torch"), ("pytest", "mindspore")} < set(started)
    arguments, environment = started["pytest", "mindspore"]
    assert {"--nbval", "--nbval-current-env"} <= set(arguments)
    assert environment["LAB_HOME"] != os.environ["LAB_HOME"]
    assert "PYTHONSAFEPATH" not in environment
    assert "types: ok" in output


def test_quick_leaves_out_what_is_slow_or_loads_weights(started):
    assert run(tier="quick")[0]
    arguments, _ = started["pytest", "torch"]
    assert arguments[arguments.index("-m") + 1] == "not slow and not weights"
    assert not any(argument.endswith("ipynb") for argument in arguments)
    assert ("pytest", "mindspore") not in started


def test_soak_asks_both_frameworks_for_what_is_marked(started):
    started["codes"] = {"pytest": testing.NO_TESTS}
    assert not run(tier="soak")[0], "MindSpore's session may have none, torch's not"
    arguments = [started["pytest", backend][0] for backend in ("torch", "mindspore")]
    assert ["soak" in each[each.index("-m") + 1] for each in arguments] == [True, True]


@pytest.mark.parametrize("module", ["ruff", "mypy", "importlinter", "pytest"])
def test_one_failure_fails_the_run_and_the_rest_still_runs(started, module):
    started["codes"] = {module: 1}
    passed, output = run("tests/test_house.py")
    assert not passed
    assert {"ruff", "mypy", ("pytest", "torch")} < set(started)
    assert ("FAILED" in output) == (module != "pytest")


@pytest.mark.parametrize(("arguments", "passed"), [(("-k", "x"), True), ((), False)])
def test_a_session_without_tests_is_forgiven_only_where_the_user_chose(started, arguments, passed):
    started["codes"] = {"pytest": testing.NO_TESTS}
    assert run(*arguments)[0] == passed


def test_without_the_test_group_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(testing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotAvailable, match="group `test`"):
        testing.run([], "all", False, print)


# --- durations --------------------------------------------------------------------------------------------------------

REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="test_x[1]" time="1.5"/>
<testcase classname="tests.test_a" name="test_y" time="2.0"><failure/></testcase>
<testcase classname="notebooks.01_a.ipynb" name="Cell 3" time="9.25"/>
</testsuite></testsuites>"""


def test_durations_are_summed_by_file_and_the_slowest_are_named():
    durations = testing.read_durations(REPORT)
    assert durations["tests.test_a", "test_x[1]"] == 1.5
    lines = [line.split() for line in testing.duration_tables("torch", durations).splitlines()]
    assert ["all", "3", "12.8"] in lines
    assert ["tests.test_a", "2", "3.5"] in lines
    assert lines.index(["notebooks.01_a.ipynb", "1", "9.2"]) < lines.index(["tests.test_a", "2", "3.5"])
    assert ["notebooks.01_a.ipynb:", "Cell", "3", "9.2"] in lines


CONFTEST = ROOT / "tests" / "conftest.py"
SOAK_TESTS = """
import pytest
def test_times(kill_times):
    ends = sorted(kill_times(10.0))
    assert all(10 * n <= end * len(ends) <= 10 * (n + 1) for n, end in enumerate(ends))
    print(f"{len(ends)} ends")
@pytest.mark.soak
def test_long(chance): print("long ran", chance.random())
@pytest.mark.skip(reason="of another kind")
def test_other(): pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "ran", "count"),
    [(["-n", "1"], ["3 ends"], 2), (["-m", "soak"], ["20 ends", "long ran 0.6229"], 0)],
    ids=str,
)
def test_soak_tests_run_where_they_are_asked_for_and_are_counted_elsewhere(tmp_path, options, ran, count):
    """The real thing once, with this project's conftest; the count comes from the processes side by side, too."""
    (tmp_path / "test_a.py").write_text(SOAK_TESTS)
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    settings = f"[pytest]\npythonpath = {ROOT / 'tests' / 'helpers'} {ROOT}\nmarkers = soak: x\n"
    (tmp_path / "pytest.ini").write_text(settings)
    command = [sys.executable, "-m", "pytest", "-rA", "--no-header", *options]
    environment = {**os.environ, "LAB_FUZZ_SEED": "5"}
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert re.findall("^[0-9]+ ends|^long ran .{6}", shown, re.MULTILINE) == ran
    assert (f"Left out: {count} soak tests" in shown, "Left out" in shown) == (count > 0, count > 0)


@pytest.mark.slow
def test_durations_come_from_what_pytest_writes(tmp_path):
    """The real thing once: two tests in a process of their own."""
    (tmp_path / "test_a.py").write_text("import time\ndef test_x(): time.sleep(0.2)\ndef test_y(): pass\n")
    command = [testing.sys.executable, "-m", "pytest", "-q", "--rootdir=.", "--junitxml=report.xml", "test_a.py"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    durations = testing.read_durations((tmp_path / "report.xml").read_text())
    assert set(durations) == {("test_a", "test_x"), ("test_a", "test_y")}
    assert 0.2 < durations["test_a", "test_x"] < 5
