"""The page's scripts, each alone, run by Chromium: subtitles as Python writes them, streams however they are cut."""

from __future__ import annotations

import itertools
import json

import pytest
from browser import chromium, find_chromium
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labsupport.serving import pages
from labsupport.speech.text import Segment
from labsupport.speech.transcripts import render

pytestmark = pytest.mark.slow
ORIGIN = "http://page.test/"
RENDER = "([form, segments]) => ({ srt: page.toSrt, vtt: page.toVtt, text: page.toText })[form](segments)"
READ = """
async pieces => {
  const stream = new ReadableStream({
    start(controller) { for (const piece of pieces) controller.enqueue(Uint8Array.from(piece)); controller.close(); }
  });
  const events = [];
  for await (const event of page.readEvents({ body: stream })) events.push(event);
  return events;
}
"""
TIMES = st.one_of(st.integers(0, 40_000_000).map(lambda sample: sample / 16_000), st.floats(0, 40_000, allow_nan=False))
TEXTS = st.text(
    st.one_of(st.sampled_from(" \n\t\x85\u2028\ufeff<>&-\x1c\x00"), st.characters(exclude_categories=["Cs"])),
    max_size=30,
)
SEGMENTS = st.lists(st.tuples(TIMES, TIMES, TEXTS), max_size=5)
ANY = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def page():
    """An empty page with the scripts' functions in `page`."""
    find_chromium()
    with chromium() as browser:
        page = browser.new_page()
        page.route("**/*", serve_script)
        page.goto(ORIGIN)
        page.evaluate(
            "async () => { window.page = { ...await import('./subtitles.js'), ...await import('./events.js') }; }"
        )
        yield page


def serve_script(route):
    name = route.request.url.removeprefix(ORIGIN)
    body = pages.FILES[name].read_text(encoding="utf-8") if name else "<!doctype html><title>none</title>"
    route.fulfill(body=body, content_type="text/javascript" if name else "text/html")


@pytest.mark.parametrize("form", ["srt", "vtt", "text"])
@ANY
@given(drawn=SEGMENTS)
def test_subtitles_are_what_the_package_writes(page, form, drawn):
    segments = [{"start": start, "end": end, "text": text} for start, end, text in drawn]
    expected = render([Segment(start, end, text) for start, end, text in drawn], form)
    assert page.evaluate(RENDER, [form, segments]) == expected


def test_half_a_millisecond_is_rounded_as_python_rounds(page):
    drawn = [(0.0625, 0.1875, "so"), (3600.5, 3599, "-->"), (1.0, 2.0, " \n ")]
    segments = [{"start": start, "end": end, "text": text} for start, end, text in drawn]
    found = page.evaluate(RENDER, ["srt", segments])
    assert found == "1\n00:00:00,062 --> 00:00:00,188\nso\n\n2\n01:00:00,500 --> 01:00:00,501\n->\n\n"


@ANY
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), max_size=5),
    cuts=st.lists(st.integers(0, 300), max_size=8),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_a_stream_is_read_however_it_is_cut(page, texts, cuts, newline):
    """Also within a character; comments between the events are no events."""
    events = [{"type": "transcript.text.delta", "delta": text} for text in texts]
    blocks = [f"data: {json.dumps(event, ensure_ascii=False)}" for event in events]
    content = "".join(f"{block}{2 * newline}: still at work{2 * newline}" for block in blocks).encode()
    ends = sorted({min(cut, len(content)) for cut in cuts} | {0, len(content)})
    pieces = [list(content[start:end]) for start, end in itertools.pairwise(ends)]
    assert page.evaluate(READ, pieces) == events
