"""Headless Chromium: found, started, and asked what a person who uses the page would meet."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
INTERACTIVE = {"button", "link", "combobox", "textbox", "checkbox", "Audio"}
OVERLAID = """
() => [...document.querySelectorAll("body *")].filter(element =>
  element.checkVisibility() && [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())
).map(element => {
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  return [element.textContent.slice(0, 30), getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
})
"""  # each text that is seen, its colour, and the colour behind it


def find_chromium() -> str:
    """The program; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or pytest.skip("needs Chromium, which is not installed here")


@contextlib.contextmanager
def chromium(*options: str) -> Iterator[Browser]:
    program = find_chromium()
    sandbox = ["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*sandbox, *options])
        yield browser
        browser.close()


def microphone_options(wav: Path) -> list[str]:
    """A microphone into which the file is spoken, once."""
    return [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={wav}%noloop",
    ]


def list_controls(page: Page) -> list[tuple[str, str]]:
    """Role and name of all that can be used, as assistive programs are told."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    shown = [node for node in nodes if not node["ignored"]]
    return [(node["role"]["value"], node["name"]["value"]) for node in shown if node["role"]["value"] in INTERACTIVE]


def list_contrasts(page: Page) -> dict[str, float]:
    """Each text that is seen -> its contrast as of WCAG 2.2; 21 is black on white."""
    return {text: contrast(parse(colour), parse(behind)) for text, colour, behind in page.evaluate(OVERLAID)}


def parse(colour: str) -> list[float]:
    return [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]


def contrast(one: list[float], other: list[float]) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: list[float]) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
