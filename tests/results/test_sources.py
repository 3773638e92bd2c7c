"""Every article, paper and library that the course names: whole, linked, and the same wherever it is printed."""

from __future__ import annotations

import re

import pytest
import yaml

from labsupport.base.errors import ClaimError
from labsupport.base.paths import NOTEBOOKS, PAGE, ROOT
from labsupport.course import notebook as notebook_format
from labsupport.results import sources
from labsupport.results.claims import ARTICLES

ARTICLE = """[[article]]
id = "A"
title = "t"
translation = "u"
authors = ["n"]
publisher = "p"
date = ""
addresses = ["https://a.example/x"]
given = []
confirmed = "look-up"
"""
SOURCE = '[[source]]\nid = "s"\ntitle = "t"\nauthors = ["n"]\naddress = "https://a.example"\nconfirmed = "metadata"\n'


def test_the_four_articles_are_there_and_each_has_what_a_reader_needs():
    articles = sources.load_articles()
    assert [article.id for article in articles] == list(ARTICLES)
    for article in articles:
        assert all((article.title, article.translation, article.authors, article.publisher, article.addresses))
        assert re.fullmatch(r"\d{4}-\d\d-\d\d|", article.date)


def test_ids_are_there_once_and_papers_have_a_year():
    found = sources.load_sources()
    assert len({source.id for source in found}) == len(found)
    assert {"2212.04356", "2205.14135", "2307.08691", "2210.17323"} <= {
        source.address.rpartition("/")[2] for source in found if source.year
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (ARTICLE.replace('publisher = "p"\n', ""), "publisher"),
        (ARTICLE + 'author = "x"\n', "'author'"),
        (ARTICLE.replace('"https://a.example/x"', ""), "needs an address"),
        (ARTICLE.replace("https://", "javascript:"), "needs an address"),
        (ARTICLE.replace("given = []", 'given = ["x"]'), "needs an address"),
        (ARTICLE.replace("look-up", "it must be so"), "how the address is known"),
    ],
)
def test_an_article_that_is_not_whole_is_refused(tmp_path, text, fault):
    (tmp_path / "good.toml").write_text(ARTICLE)
    assert (
        sources.load_articles(tmp_path / "good.toml")[0].cite() == "A, [t](https://a.example/x) (u); p, no date found"
    )
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ClaimError, match=fault):
        sources.load_articles(tmp_path / "bad.toml")


def test_a_source_whose_address_nobody_confirmed_is_refused(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(SOURCE)
    assert sources.load_sources(path)[0].cite() == "[t](https://a.example)"
    path.write_text(SOURCE.replace("metadata", ""))
    with pytest.raises(ClaimError, match="how the address is known"):
        sources.load_sources(path)


def test_an_unknown_id_is_named_with_the_known_ones():
    with pytest.raises(ClaimError, match="'Z'"):
        sources.head_paragraph(["Z"])
    with pytest.raises(ClaimError, match="'gtpq'"):
        sources.head_paragraph(["A"], ["gtpq"])


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob(f"{PAGE}.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_s_head_links_its_articles(path):
    notebook = notebook_format.parse(path.read_text(encoding="utf-8"))
    head = notebook_format.joined(notebook["cells"][0]["source"])
    for article in sources.load_articles():
        assert (article.addresses[0] in head) is (article.id in notebook["metadata"]["lab"]["articles"])
    assert head.count(sources.HEAD) == 1


def test_citation_is_yaml_with_every_source_and_every_address():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    references = citation["references"]
    articles, others = sources.load_articles(), sources.load_sources()
    assert [each["title"] for each in references] == [each.title for each in (*articles, *others)]
    printed = {each["url"] for each in references}
    printed |= {link["value"] for each in references for link in each.get("identifiers", [])}
    assert printed == {
        *(link for article in articles for link in (*article.addresses, *article.given)),
        *(source.address for source in others),
    }
    assert all(each["type"] and each["authors"] for each in references)
    assert citation["license"]


def test_readme_names_each_article_with_its_title_publisher_and_link():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for article in sources.load_articles():
        assert article.cite() in readme
