"""The load benchmark: what it makes of answers, how it starts services, and what it does when one fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from labsupport.base.errors import BenchError
from labsupport.base.paths import AUDIO
from labsupport.benchmarks import serving
from labsupport.benchmarks.serving import ARTICLE, OURS, Answer, Load, Round
from labsupport.results import recording, rows

READY = '{"event": "listening", "url": "http://127.0.0.1:1"}\n{"event": "ready"}\n'


def make_round(*spans, status=200, text="so", cpu=1.0):
    return Round([Answer(began, ended, status, text) for began, ended in spans], cpu)


def test_a_round_lasts_from_the_first_request_to_the_last_answer():
    assert make_round((3.0, 4.0), (1.0, 2.0), (2.0, 7.5)).seconds == 6.5


def test_rounds_are_compared_in_pairs():
    rounds = [{ARTICLE: make_round((0, 4 * n)), OURS: make_round((0, 2 * n), cpu=n)} for n in (1, 2, 5)]
    timed = serving.compare(rounds)
    assert timed[ARTICLE].wall == (4, 8, 20)
    assert timed[OURS].cpu == (1, 2, 5)
    assert timed[OURS].throughput == 1 / 4
    gain = timed.speedup(ARTICLE, OURS)
    assert (gain.low, gain.value, gain.high) == pytest.approx((2, 2, 2))


@pytest.mark.parametrize(
    ("other", "message"),
    [({"status": 429}, "refused requests"), ({"status": 0}, "refused requests"), ({"text": "no"}, "several texts")],
)
def test_a_refusal_or_another_text_is_no_result(other, message):
    rounds = [
        {ARTICLE: make_round((0, 4)), OURS: make_round((0, 1))},
        {ARTICLE: make_round((0, 4)), OURS: make_round((0, 1), **other)},
    ]
    with pytest.raises(BenchError, match=message):
        serving.compare(rounds)


def test_percentiles_are_values_that_were_measured():
    answers = make_round(*((0.0, float(n)) for n in range(1, 21))).answers
    assert serving.percentiles(answers) == {50: 10.0, 95: 19.0, 99: 20.0}


def test_everything_becomes_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    group = recording.Recording("serving", "tiny.en", "jfk")
    serving.record_rounds(group, [{ARTICLE: make_round((0, 4 * n)), OURS: make_round((0, 2 * n))} for n in (1, 2)])
    serving.record_crowd(group, [Answer(0, 1, 200, "so"), Answer(0, 2, 429, "")])
    found = {row.what: row for row in rows.read_rows(tmp_path)}
    assert len(found) == 2 + 2 * 4 + 3
    assert found[f"8 clients, 24 requests: {OURS}"].gain[0] == pytest.approx(2)
    assert found[f"8 clients, p99: {ARTICLE}"].value == 8
    assert (found["2 clients at once: answered"].value, found["2 clients at once: told to come back"].value) == (1, 1)


@pytest.mark.parametrize("status", [0, 500, 503])
def test_a_crowd_with_another_answer_is_no_result(status):
    with pytest.raises(BenchError, match="another answer"):
        serving.record_crowd(recording.Recording("serving", "m"), [Answer(0, 1, 200, "so"), Answer(0, 1, status, "")])


def test_without_locust_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "locust", None)
    with pytest.raises(BenchError, match="locust is not installed"):
        serving.run("tiny.en", 1, "jfk")


@pytest.mark.parametrize(
    ("log", "url"),
    [(READY, "http://127.0.0.1:1"), (READY[:-3], None), ("", None), ("Warning: x\n" + READY, "http://127.0.0.1:1")],
)
def test_ours_is_ready_once_the_model_is_loaded(log, url):
    assert serving.find_ready(log) == url


def test_a_service_that_does_not_start_is_told_with_its_last_words():
    command = [sys.executable, "-c", "raise SystemExit('no model')"]
    with pytest.raises(BenchError, match="does not start") as caught, serving.started(command, lambda text: None):
        pass
    assert "no model" in str(caught.value.where)


def test_what_is_sent_to_the_clients_is_what_they_read():
    """The file of locust's is executed in another process, which has these names alone."""
    source = Path(serving.serving_clients_file()).read_text(encoding="utf-8")
    for name in Load.__dataclass_fields__:
        assert f'LOAD["{name}"]' in source


def test_a_load_that_does_not_end_is_no_result(tmp_path):
    """A service that nobody started: each request has an end, and none an answer."""
    target = serving.Target("http://127.0.0.1:9", "/transcribe", {}, 0)
    answers = serving.load(target, AUDIO / "jfk.flac", clients=2, each=2)
    assert [each.status for each in answers] == [0] * 4
