"""Clients of a service under load: a file of locust's, which executes it in a process of its own.

locust comes with what the tests need. It replaces parts of Python's library as it is imported, so nothing else may
import this file. What to do is in the environment variable LAB_LOAD, as `Load` in JSON.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from locust import HttpUser, constant, events, task
from locust.exception import StopUser

LOAD = json.loads(os.environ["LAB_LOAD"])
CONTENT = Path(LOAD["sound"]).read_bytes()
count = 0  # requests that were answered, or not


class Client(HttpUser):
    """Sends its requests one after the other, and leaves."""

    wait_time = constant(0)

    @task
    def stay(self) -> None:
        for _ in range(LOAD["each"]):
            self.ask()
        raise StopUser

    def ask(self) -> None:
        """Appends a line: when it began and ended, by the one clock of all, its status (0: none came) and the text."""
        began = time.monotonic()
        with self.client.post(
            LOAD["route"], files={"file": ("clip", CONTENT)}, data=LOAD["fields"], timeout=LOAD["timeout"],
            catch_response=True,
        ) as answer:  # fmt: skip
            answer.success()
        text = answer.json()["text"] if answer.status_code == 200 else ""
        note({"began": began, "ended": time.monotonic(), "status": answer.status_code, "text": text})


def note(line: dict) -> None:
    global count
    with open(LOAD["answers"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    count += 1


@events.init.add_listener
def end_with_the_last(environment, **_) -> None:
    """Without it, locust waits for a signal though all users have left."""
    import gevent

    def wait() -> None:
        while count < LOAD["clients"] * LOAD["each"]:
            gevent.sleep(0.02)
        environment.runner.quit()

    gevent.spawn(wait)
