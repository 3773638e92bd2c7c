"""Who says what the course tests: the four articles, and the papers and libraries that it uses, from the ledger's file.

README, CITATION.cff and the first cell of each notebook are written from here by the maintainers' tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from labsupport.base.errors import ClaimError
from labsupport.base.paths import read_toml
from labsupport.results.claims import LEDGER

HEAD = "**Sources**: "  # what the last paragraph of a notebook's first cell begins with
CONFIRMED = ("article", "look-up", "metadata")  # how an address is known, see the file


@dataclass(frozen=True)
class Article:
    """One of the four: `addresses` are where it stands, `given` what it links to; `date` is ISO 8601, or empty."""

    id: str
    title: str
    translation: str
    authors: tuple[str, ...]
    publisher: str
    date: str
    addresses: tuple[str, ...]
    given: tuple[str, ...]
    confirmed: str

    @property
    def links(self) -> tuple[str, ...]:
        return (*self.addresses, *self.given)

    def cite(self) -> str:
        """One line of Markdown."""
        date = self.date or "no date found"
        return f"{self.id}, [{self.title}]({self.addresses[0]}) ({self.translation}); {self.publisher}, {date}"


@dataclass(frozen=True)
class Source:
    """A paper or a library: `year` of the paper or the first release, where that is known."""

    id: str
    title: str
    authors: tuple[str, ...]
    address: str
    confirmed: str
    year: int | None = None

    @property
    def links(self) -> tuple[str, ...]:
        return (self.address,)

    def cite(self) -> str:
        """A few words of Markdown."""
        return f"[{self.title}]({self.address})"


Entry = TypeVar("Entry", Article, Source)


def load_articles(path: Path = LEDGER) -> list[Article]:
    """The four articles; ClaimError where one is not whole, or its address not confirmed."""
    return [parse(Article, entry, path) for entry in read_toml(path).get("article", [])]


def load_sources(path: Path = LEDGER) -> list[Source]:
    """Papers and libraries; ClaimError as above."""
    return [parse(Source, entry, path) for entry in read_toml(path).get("source", [])]


def parse(kind: type[Entry], entry: dict, path: Path) -> Entry:
    """Checks one table of the file."""
    where = f"{path}, {kind.__name__.lower()} {entry.get('id')}"
    known = {field.name for field in fields(kind)}
    required = {field.name for field in fields(kind) if field.default is MISSING}
    if wrong := sorted((set(entry) - known) | (required - set(entry))):
        raise ClaimError(f"A source has no field {wrong[0]!r}, or lacks it.", where=where)
    values: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in entry.items()}
    found = kind(**values)
    if not found.links or not all(link.startswith(("https://", "http://")) for link in found.links):
        raise ClaimError("A source needs an address.", where=where)
    if not found.confirmed.startswith(CONFIRMED):
        raise ClaimError(f"Say how the address is known: {', '.join(CONFIRMED)}.", where=where)
    return found


def head_paragraph(articles: Iterable[str], sources: Sequence[str] = ()) -> str:
    """The last paragraph of a notebook's first cell: its articles and what else it builds on, by their ids.

    ClaimError where there is no such id.
    """
    cited = [pick(name, load_articles()).cite() for name in articles]
    named = ", ".join(pick(name, load_sources()).cite() for name in sources)
    return HEAD + ". ".join([*(f"Article {text}" for text in cited), *([f"Also {named}"] if named else [])]) + "."


def pick(name: str, entries: Sequence[Entry]) -> Entry:
    found = next((entry for entry in entries if entry.id == name), None)
    if found is None:
        known = ", ".join(entry.id for entry in entries)
        raise ClaimError(f"The ledger's file names no source {name!r}.", where=LEDGER, hint=f"It names {known}.")
    return found


def article_list() -> str:
    """README's list of the articles, as Markdown."""
    return "\n".join(f"- {article.cite()}" for article in load_articles())


def citation_references() -> str:
    """The key `references` of CITATION.cff, as YAML."""
    return "\n".join(["references:", *map(cite_article, load_articles()), *map(cite_source, load_sources())]) + "\n"


def cite_article(article: Article) -> str:
    links = [*article.addresses[1:], *article.given]
    return to_yaml(
        {
            "type": "article",
            "title": article.title,
            "authors": [{"name": name} for name in article.authors],
            "publisher": {"name": article.publisher},
            **({"date-published": article.date} if article.date else {}),
            "url": article.addresses[0],
            **({"identifiers": [{"type": "url", "value": link} for link in links]} if links else {}),
            "notes": f"Article {article.id}: {article.translation}. Address known by {article.confirmed}.",
        }
    )


def cite_source(source: Source) -> str:
    return to_yaml(
        {
            "type": "article" if "arxiv.org" in source.address else "software",
            "title": source.title,
            "authors": [{"name": name} for name in source.authors],
            **({"year": source.year} if source.year else {}),
            "url": source.address,
        }
    )


def to_yaml(entry: dict) -> str:
    """One item of a list; every value is written as JSON, which is YAML."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()]
    return "\n".join(f"  {'-' if number == 0 else ' '} {line}" for number, line in enumerate(lines))
