"""The pages' files: what is sent with them, what is in them, and that the wheel has them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from labsupport.base.paths import ROOT
from labsupport.serving import pages
from labsupport.whisper.language import NAMES

SCRIPTS = [path for path in pages.FILES.values() if path.suffix == ".js"]


@pytest.fixture(scope="module")
def client():
    app = FastAPI(title="A service", version="1", description="It serves.", docs_url=None)
    pages.add_pages(app)
    return TestClient(app)


def read(name: str) -> str:
    return (pages.FOLDER / name).read_text(encoding="utf-8")


def read_texts() -> dict[str, dict[str, str]]:
    """texts.js, each language's texts by their names."""
    halves = re.split(r"\n  (\w\w): \{\n", read("texts.js"))[1:]
    return {
        language: dict(re.findall(r'^    (\w+): "([^"]+)",$', block, re.M))
        for language, block in zip(halves[::2], halves[1::2], strict=True)
    }


@pytest.mark.parametrize("path", ["/", "/docs", *(f"/page/{name}" for name in pages.FILES)])
def test_every_answer_forbids_what_the_page_does_not_need(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    rules = dict(rule.partition(" ")[::2] for rule in answer.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    if path != "/docs":  # a page without any script
        assert "unsafe-inline" not in answer.headers["content-security-policy"]
        assert rules["script-src"] == rules["connect-src"] == "'self'"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", ["docs.html", "index.html", "..%2fapi.py", "%2e%2e/api.py", "none.js", ""])
def test_nothing_else_is_given(client, name):
    assert client.get(f"/page/{name}").status_code == 404


def test_kinds_are_those_that_browsers_take(client):
    kinds = {name: client.get(f"/page/{name}").headers["content-type"] for name in pages.FILES}
    assert {kind.partition(";")[0] for kind in kinds.values()} == set(pages.KINDS.values())
    assert kinds["app.js"].startswith("text/javascript")


def test_no_file_names_another_address():
    for path in pages.FOLDER.iterdir():
        found = set(re.findall(r"(?:https?:)?//[\w.]+", path.read_text(encoding="utf-8")))
        assert found <= {"http://www.w3.org"}, path  # SVG's own name


def test_every_file_is_used():
    used = set(re.findall(r'page/([\w.]+)"', read("index.html")))
    for path in SCRIPTS:
        used |= set(re.findall(r'from "\./([\w.]+)"', path.read_text(encoding="utf-8")))
    assert used == set(pages.FILES)


def test_both_languages_say_the_same_things():
    texts = read_texts()
    assert set(texts) == {"en", "zh"}
    assert list(texts["en"]) == list(texts["zh"])
    places = {
        language: {name: re.findall(r"\{\w+\}", text) for name, text in each.items()}
        for language, each in texts.items()
    }
    assert places["en"] == places["zh"]
    assert not any(re.search("[\u4e00-\u9fff]", text) for text in texts["en"].values())
    assert all(re.search("[\u4e00-\u9fff]", text) for text in texts["zh"].values())


def test_every_text_is_used_and_every_used_text_is_there():
    source = read("index.html") + "".join(
        path.read_text(encoding="utf-8") for path in SCRIPTS if path.name != "texts.js"
    )
    named = set(re.findall(r'data-text="(\w+)"', source))
    known = set(read_texts()["en"])
    assert named <= known
    assert {name for name in known if not name.startswith("problem_") and f'"{name}"' not in source} == set()


def test_the_page_knows_errors_that_the_service_has():
    codes = {name.removeprefix("problem_") for name in read_texts()["en"] if name.startswith("problem_")}
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "labsupport" / "serving").glob("*.py"))
    assert codes <= set(re.findall(r'code="(\w+)"', source))


def test_the_page_says_in_html_what_it_says_in_english():
    texts = read_texts()["en"]
    found = re.findall(r'data-text="(\w+)"[^>]*>([^<]*)<', read("index.html"))
    assert found
    assert [(name, texts[name]) for name, _ in found] == found


def test_languages_are_whispers():
    codes = {entry.split()[0] for entry in NAMES.split(",")}
    found = re.findall(r'"(\w+)"', read("languages.js").partition("];")[0])
    assert set(found) == codes
    assert len(found) == len(set(found))


@pytest.mark.slow
def test_the_wheel_holds_the_pages(tmp_path):
    if (uv := shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")) is None:
        pytest.skip("needs uv, which is not installed here")
    command = [uv, "build", "--wheel", "--offline", "--out-dir", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        found = {each.rpartition("/")[2] for each in wheel.namelist() if each.startswith("labsupport/serving/pages/")}
    assert found - {""} == {path.name for path in pages.FOLDER.iterdir()}  # "": the folder itself
