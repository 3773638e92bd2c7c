"""The description of the API as a page that needs nothing from elsewhere."""

from __future__ import annotations

import re

from fastapi import FastAPI
from fastapi.testclient import TestClient

from labsupport.serving.pages import add_pages, describe_kind, render_docs
from labsupport.serving.schemas import TranscriptionForm, form_schema


def test_the_page_shows_every_field_and_fetches_nothing():
    operation = {
        "summary": "Speech <b>to</b> text",
        "requestBody": {"content": {"multipart/form-data": {"schema": form_schema(TranscriptionForm)}}},
        "responses": {"200": {"description": "The text."}},
    }
    info = {"title": "T", "version": "1", "description": "D"}
    page = render_docs({"info": info, "paths": {"/a": {"post": operation}}})
    assert "POST /a" in page
    for name in (*TranscriptionForm.model_fields, "file"):
        assert name in page
    assert "<b>" not in page
    assert "json, text, srt, verbose_json, vtt" in page
    assert re.findall(r'(?:src|href)="([^"]+)"', page) == ["/openapi.json"]


def test_kinds_in_one_line():
    assert describe_kind({"anyOf": [{"type": "string"}, {"type": "null"}]}) == "string"
    assert describe_kind({"type": "array", "items": {"enum": ["a", "b"]}}) == "several of: a, b"
    assert describe_kind({"const": "auto"}) == "auto"


def test_pages_are_served_with_a_policy_that_allows_no_script():
    app = FastAPI(docs_url=None, description="D")
    add_pages(app)
    answer = TestClient(app).get("/docs")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]
