"""Whether one of these addresses answers: the health check of an image, which has no curl.

`python -m labsupport.serving.health URL...` gives exit code 0 where one does, else 1.
"""

from __future__ import annotations

import http.client
import sys
import urllib.request
from collections.abc import Sequence

SECONDS = 4.0  # for each: two of them fit into docker's ten


def answers(url: str) -> bool:
    """Whether a GET gets a status of success."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return bool(answer.status < 400)
    except (OSError, http.client.HTTPException):
        return False


def main(urls: Sequence[str]) -> int:
    return 0 if any(map(answers, urls)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
