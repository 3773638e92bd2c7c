"""The page in Chromium, as a person uses it, against the real process and real speech."""

from __future__ import annotations

import re
import socket
import time

import pytest
import soxr
from browser import chromium, find_chromium, list_contrasts, list_controls, microphone_options
from playwright.sync_api import expect
from served import HTTP, LONGEST, encode, serve, speech, wav, write_small_model

from labsupport.base.paths import AUDIO
from labsupport.speech.transcripts import one_line

pytestmark = [pytest.mark.weights, pytest.mark.slow]
JFK, NARRATION = AUDIO / "jfk.flac", AUDIO / "narration.flac"
TOKEN = "a-token-of-some-length"
expect.set_options(timeout=LONGEST / 2 * 1000)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Window by window, so that the text of a file of several comes in pieces."""
    find_chromium()
    with serve(tmp_path_factory.mktemp("served"), "--batch", "1") as served:
        yield served


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """With a token, and for one request at a time."""
    find_chromium()
    folder = write_small_model(tmp_path_factory.mktemp("model") / "small")
    options = ("--batch", "1", "--queue", "0")
    with serve(tmp_path_factory.mktemp("guarded"), *options, model=str(folder), LAB_SERVE_TOKEN=TOKEN) as served:
        yield served


@pytest.fixture(scope="module")
def browser(tmp_path_factory, jfk):
    spoken = tmp_path_factory.mktemp("microphone") / "jfk.wav"
    spoken.write_bytes(encode(soxr.resample(jfk, 16_000, 48_000), 48_000))
    with chromium(*microphone_options(spoken), "--autoplay-policy=no-user-gesture-required") as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    """Opens a service's page in a fresh profile; afterwards nothing may have gone elsewhere, or failed in a script."""
    contexts, asked, errors = [], [], []

    def open_one(served, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append((served.url, request.url)))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if "Content Security Policy" in line.text else None)
        page.goto(served.url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert [url for home, url in asked if not url.startswith((home, "blob:"))] == []
    assert errors == []


def transcribe(page, file=JFK):
    page.set_input_files("#file", file)
    page.click("#start")
    expect(page.locator("#downloads")).to_be_visible()


def status(page):
    return page.locator("#status")


def problem(page):
    return page.locator("#problem")


def as_file(content, name="speech.wav"):
    return {"name": name, "mimeType": "audio/wav", "buffer": content}


# --- from a file to its text -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(browser, served):
    """A page that shows the text of jfk."""
    page = browser.new_page()
    page.goto(served.url)
    transcribe(page)
    yield page
    page.close()


def test_a_file_becomes_text_with_times(finished, served):
    page = finished
    expect(status(page)).to_have_text("Done.")
    expect(page.locator("#chosen")).to_have_text("jfk.flac")
    answer = ask(served, JFK, "verbose_json").json()
    assert page.locator("#segments li > span:last-child").all_text_contents() == [
        each["text"].strip() for each in answer["segments"]
    ]
    assert page.locator(".word").all_text_contents() == [each["word"] for each in answer["words"]]
    starts = page.locator(".word").evaluate_all("all => all.map(word => Number(word.dataset.start))")
    assert starts == [each["start"] for each in answer["words"]]
    assert re.fullmatch(r"00:00:00\.\d", page.locator(".time").first.text_content())


def ask(served, path, form):
    fields = {"model": "whisper-1", "response_format": form}
    if form == "verbose_json":
        fields["timestamp_granularities[]"] = ["word", "segment"]
    answer = HTTP.post(
        f"{served.url}/v1/audio/transcriptions", data=fields, files={"file": path.read_bytes()}, timeout=LONGEST
    )
    return answer.raise_for_status()


def test_text_comes_in_before_the_end(open_page, served, narration):
    page = open_page(served)
    page.set_input_files("#file", as_file(encode(narration[: 16_000 * 40])))
    page.click("#start")
    expect(page.locator("#segments li").first).to_be_visible()
    expect(status(page)).to_have_text("Transcribing…")
    assert not page.locator("#downloads").is_visible()
    first = page.locator("#segments li").count()
    expect(status(page)).to_have_text("Done.")
    assert page.locator("#segments li").count() > first


def test_a_download_is_the_services_own_file(finished, served):
    page = finished
    for form in ("srt", "vtt", "txt"):
        with page.expect_download() as waiting:
            page.click(f"#{form}")
        assert waiting.value.suggested_filename == f"jfk.{form}"
        found = waiting.value.path().read_text(encoding="utf-8")
        answer = ask(served, JFK, "text" if form == "txt" else form).text
        assert one_line(found) == one_line(answer)
        assert found == answer or form == "txt"


def test_a_word_plays_the_sound_from_there(finished):
    page = finished
    word = page.locator(".word").filter(has_text="country").first
    start = float(word.get_attribute("data-start"))
    word.click()
    page.wait_for_function("start => player.currentTime > start && !player.paused", arg=start)
    assert page.evaluate("player.currentTime") < start + 3
    page.wait_for_selector(".word.playing")
    page.evaluate("player.pause()")
    page.evaluate("player.dispatchEvent(new Event('timeupdate'))")
    assert page.locator(".word.playing").count() == 0


def test_a_dropped_file_is_taken(open_page, served):
    page = open_page(served)
    content = list(speech(0, 2.5))
    page.evaluate(
        """bytes => {
          const dropped = new DataTransfer();
          dropped.items.add(new File([Uint8Array.from(bytes)], "dropped.wav", { type: "audio/wav" }));
          for (const name of ["dragover", "drop"])
            part.dispatchEvent(new DragEvent(name, { dataTransfer: dropped, bubbles: true, cancelable: true }));
        }""".replace("part.", "document.getElementById('drop')."),
        content,
    )
    expect(page.locator("#chosen")).to_have_text("dropped.wav")
    page.click("#start")
    expect(page.locator("#segments")).to_contain_text("And so")


def test_a_recording_is_transcribed_when_it_stops(open_page, served):
    page = open_page(served)
    page.get_by_role("button", name="Record").click()
    expect(status(page)).to_have_text("Recording…")
    expect(page.locator("#record")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#start")).to_be_disabled()
    time.sleep(4)  # as long as the sentence's first half takes to say
    page.get_by_role("button", name="Stop recording").click()
    expect(status(page)).to_have_text("Done.")
    expect(page.locator("#segments")).to_contain_text("my fellow")
    expect(page.locator("#chosen")).to_have_text("recording.webm")
    word = page.locator(".word").filter(has_text="fellow")
    word.click()
    page.wait_for_function("start => player.currentTime > start", arg=float(word.get_attribute("data-start")))


def test_a_translation_is_asked_for_as_the_api_wants_it(open_page, served):
    """Its form has fewer fields, and its answer is no stream."""
    page, forms = open_page(served), []

    def answer(route):
        forms.append(route.request.post_data_buffer.decode("latin-1"))
        route.fulfill(json={"text": "So.", "segments": [{"start": 0, "end": 1.5, "text": " So."}]})

    page.route("**/v1/audio/translations", answer)
    page.select_option("#task", "translations")
    transcribe(page)
    assert page.locator(".word").all_text_contents() == ["So."]
    assert set(re.findall(r'form-data; name="([^"]+)"', forms[0])) == {"file", "model", "response_format"}


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_without_a_token_the_page_asks_for_it(open_page, guarded):
    page = open_page(guarded)
    expect(page.locator("#token")).to_be_hidden()
    page.set_input_files("#file", as_file(wav(1)))
    page.click("#start")
    expect(problem(page)).to_have_text("This server asks for an access token. Enter it, and start again.")
    expect(page.locator("#token")).to_be_focused()
    page.get_by_label("Access token").fill("wrong: 错")
    page.keyboard.press("Enter")
    expect(problem(page)).to_have_text("The server does not know this access token.")
    page.get_by_label("Access token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text(re.compile("Done|No speech"))
    expect(problem(page)).to_be_empty()
    assert TOKEN not in page.evaluate("JSON.stringify({ ...localStorage, ...sessionStorage })")


def test_a_busy_server_says_when_to_come_back(open_page, guarded):
    page = open_page(guarded)
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n--x"
    with socket.create_connection(("127.0.0.1", guarded.port)) as other:
        other.sendall(head.encode())  # the rest never comes: it is the one request that may be inside
        limit = time.monotonic() + LONGEST
        while (
            "lab_requests_inside 1.0"
            not in HTTP.get(f"{guarded.url}/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
        ):
            assert time.monotonic() < limit
        page.evaluate("token => { document.getElementById('token').value = token; }", TOKEN)
        page.set_input_files("#file", as_file(wav(1)))
        page.click("#start")
        expect(problem(page)).to_have_text(re.compile(r"The server is busy\. Try again in \d+ s\."))
    expect(page.locator("#start")).to_be_enabled()


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_a_cancelled_request_ends_on_the_server_too(open_page, served, way):
    page = open_page(served)
    before = len(served.requests())
    page.set_input_files("#file", NARRATION)
    page.click("#start")
    expect(status(page)).to_have_text("Transcribing…")
    if way == "button":
        page.get_by_role("button", name="Cancel").click()
    else:
        page.keyboard.press("Escape")
    expect(status(page)).to_have_text("Cancelled.")
    limit = time.monotonic() + LONGEST
    while len(served.requests()) == before:
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert "audio_seconds" not in served.requests()[-1]  # which is noted of what was finished
    transcribe(page, as_file(speech(0, 2.5)))
    expect(status(page)).to_have_text("Done.")


@pytest.mark.parametrize(
    ("locale", "content", "field", "text"),
    [
        ("en", b"no sound at all", None, "The file holds no sound that can be read."),
        ("zh-CN", b"no sound at all", None, "文件中没有可以读取的声音。"),
        ("en", wav(1), ("#language", "de"), "The model of this server does not know that language."),
        (
            "en",
            wav(1),
            ("#task", "translations"),
            "The model of this server knows English alone, and cannot translate.",
        ),
    ],
)
def test_errors_are_said_in_the_pages_language(open_page, served, locale, content, field, text):
    page = open_page(served, locale=locale)
    if field:
        page.select_option(*field)
    page.set_input_files("#file", as_file(content))
    page.click("#start")
    expect(problem(page)).to_have_text(text)
    expect(status(page)).to_be_empty()
    expect(page.locator("#start")).to_be_enabled()


def test_silence_has_no_text_and_says_so(open_page, served):
    page = open_page(served)
    page.set_input_files("#file", as_file(encode([0.0] * 32_000)))
    page.click("#start")
    expect(status(page)).to_have_text("No speech was found.")
    expect(page.locator("#downloads")).to_be_hidden()


def test_a_server_that_dies_is_missed_with_words(open_page, tmp_path):
    with serve(tmp_path, "--batch", "1") as served:
        page = open_page(served)
        page.set_input_files("#file", NARRATION)
        page.click("#start")
        expect(page.locator("#segments li").first).to_be_visible()
        served.process.kill()
        expect(problem(page)).to_have_text("The connection broke before the end. What had come is shown; try again.")
        expect(page.locator("#segments li").first).to_be_visible()
        page.click("#start")
        expect(problem(page)).to_have_text("The server does not answer. Is it still running?")


# --- for everybody ----------------------------------------------------------------------------------------------------


def test_the_keyboard_alone_is_enough(open_page, served):
    page = open_page(served)
    with page.expect_file_chooser() as chooser:
        go_to(page, "file")  # its answers come after choosers are reported: a key at once is too early
        page.keyboard.press("Enter")
    chooser.value.set_files(as_file(speech(0, 2.5)))
    go_to(page, "start")
    page.keyboard.press("Enter")
    expect(page.locator("#downloads")).to_be_visible()
    expect(page.locator("#start")).to_be_focused()  # again: while it worked, `cancel` was
    while not page.evaluate("document.activeElement.matches('.word')"):
        page.keyboard.press("Tab")
    assert focused(page) == "And"
    page.keyboard.press("ArrowRight")
    assert focused(page) == "so"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    assert focused(page) == "And"
    page.keyboard.press("End")
    start = float(page.evaluate("document.activeElement.dataset.start"))
    page.keyboard.press("Enter")
    page.wait_for_function("start => player.currentTime >= start", arg=start)
    go_to(page, "srt")
    with page.expect_download():
        page.keyboard.press("Enter")


def focused(page) -> str:
    return page.evaluate("document.activeElement.textContent")


def go_to(page, name):
    """Presses Tab until the element has the focus, and shows it."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == name:
            break
    shown = "document.activeElement.id === 'file' ? document.activeElement.nextElementSibling : document.activeElement"
    assert page.evaluate(f"getComputedStyle({shown}).outlineStyle") == "solid"
    assert page.evaluate("document.activeElement.id") == name


@pytest.mark.parametrize(("theme", "locale"), [("light", "en"), ("dark", "zh-CN")])
def test_every_control_has_a_name_and_every_text_contrast(open_page, served, theme, locale):
    page = open_page(served, color_scheme=theme, locale=locale)
    transcribe(page, as_file(speech(0, 2.5)))
    page.evaluate("document.getElementById('token-field').hidden = false")
    page.evaluate("document.getElementById('problem').textContent = 'It failed.'")
    page.locator(".word").first.click()
    controls = list_controls(page)
    assert {role for role, _ in controls} >= {"button", "link", "combobox", "textbox"}
    assert [role for role, name in controls if not name.strip()] == []
    contrasts = list_contrasts(page)
    assert len(contrasts) > 12
    assert {text: ratio for text, ratio in contrasts.items() if ratio < 4.5} == {}
    assert page.locator("html").get_attribute("lang") == locale
    assert page.locator("html").get_attribute("data-theme") == theme
    assert page.locator("h1").count() == page.locator("main").count() == 1


def test_a_nameless_control_and_a_pale_text_are_found(open_page, served):
    page = open_page(served)
    page.evaluate("theme.textContent = ''; problem.textContent = 'pale'; problem.style.color = '#999'")
    assert ("button", "") in list_controls(page)
    assert list_contrasts(page)["pale"] < 3


def test_language_and_theme_are_remembered(open_page, served):
    page = open_page(served, color_scheme="light", locale="en")
    page.set_input_files("#file", as_file(speech(0, 1), "a name.wav"))
    page.get_by_role("button", name="中文").click()
    page.get_by_role("button", name="深色").click()
    expect(page.locator("h1")).to_have_text("语音转文字")
    expect(page.locator("#chosen")).to_have_text("a name.wav")
    assert page.locator("#language option", has_text=re.compile("^德语$")).count() == 1
    page.reload()
    expect(page.get_by_role("button", name="开始转写")).to_be_visible()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize("locale", ["en", "zh-CN"])
def test_every_language_has_a_name(open_page, served, locale):
    page = open_page(served, locale=locale)
    options = page.locator("#language option").evaluate_all("all => all.map(each => [each.value, each.text])")
    assert len(options) == 101  # Whisper's hundred, and none
    assert [code for code, text in options if text in ("", code)] == []
    assert len({text for _, text in options}) == len(options)


def test_a_narrow_screen_needs_no_scrolling_sideways(open_page, served):
    page = open_page(served, viewport={"width": 390, "height": 800})
    transcribe(page, as_file(speech(0, 2.5), "a_very_long_name_without_any_space" * 3 + ".wav"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_narrow_screen_shows_all_of_the_description(browser, served):
    page = browser.new_page(viewport={"width": 340, "height": 800})
    page.goto(f"{served.url}/docs")
    assert page.evaluate("document.documentElement.scrollWidth") <= 340
    page.close()


def test_the_policy_holds_in_the_browser(browser, served):
    page = browser.new_page()
    page.goto(served.url)
    found = page.evaluate(
        """() => new Promise(resolve => {
          document.addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective));
          document.head.append(Object.assign(document.createElement("script"), { textContent: "window.got = 1" }));
        })"""
    )
    assert found == "script-src-elem"
    assert page.evaluate("window.got") is None
    page.close()
