"""What a browser is shown: the page on `/` and the API's description; nothing comes from another machine."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

FOLDER = Path(__file__).parent / "pages"
NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
DOCS_POLICY = f"{NOTHING}; style-src 'unsafe-inline'"
PAGE_POLICY = f"{NOTHING}; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; media-src blob:"
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FILES = {path.name: path for path in FOLDER.iterdir() if path.suffix in KINDS}  # what the page on / is made of


def add_pages(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(render_docs(app.openapi()), headers=make_headers(DOCS_POLICY))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse((FOLDER / "index.html").read_bytes(), headers=make_headers(PAGE_POLICY))

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404)
        content, kind = FILES[name].read_bytes(), KINDS[FILES[name].suffix]
        return Response(content, media_type=kind, headers=make_headers(PAGE_POLICY))


def make_headers(policy: str) -> dict[str, str]:
    """no-cache: a newer version of the lab brings all of its files at once."""
    return {"content-security-policy": policy, "referrer-policy": "no-referrer", "cache-control": "no-cache"}


def render_docs(description: dict) -> str:
    """An OpenAPI description as a page: each route with its fields and answers, and all of it as JSON."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    routes = [
        {"method": method.upper(), "path": path, "fields": list_fields(operation), **operation}
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    ]
    return environment.get_template("docs.html").render(
        info=description["info"], routes=routes, whole=json.dumps(description, indent=2)
    )


def list_fields(operation: dict) -> list[dict]:
    """Name, type, need and meaning of each field of a form."""
    content = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data", {})
    schema = content.get("schema", {})
    return [
        {"name": name, "kind": describe_kind(field), "needed": name in schema["required"],
         "default": field.get("default"), "text": field.get("description", "")}
        for name, field in schema.get("properties", {}).items()
    ]  # fmt: skip


def describe_kind(field: dict) -> str:
    """A JSON schema's type in one line."""
    if "anyOf" in field:
        return " or ".join(describe_kind(each) for each in field["anyOf"] if each.get("type") != "null")
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    if field.get("type") == "array":
        return f"several of: {describe_kind(field['items'])}"
    return "file" if field.get("format") == "binary" else str(field.get("type", ""))
