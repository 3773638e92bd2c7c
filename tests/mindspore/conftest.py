"""These tests belong to a MindSpore process; `./lab test` starts one for them."""

import os

if os.environ.get("LAB_BACKEND") != "mindspore":
    collect_ignore_glob = ["test_*.py"]
