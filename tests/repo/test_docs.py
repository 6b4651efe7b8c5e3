"""The documentation can be built, has every name that the package offers, and no dead link."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from docs.made import MADE
from tests.pages import ROOT, pages, text_of

# Pictures, too.
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]*)\)")
# What can be led to by its own words, and by a name that it was given.
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
NAME = re.compile(r"^\(([\w-]+)\)=$", re.MULTILINE)


def made(page: str) -> str:
    """A page with what is made from the code."""
    text = text_of(page)
    for mark, make in MADE.get(Path(page).stem, {}).items():
        assert text.count(mark) == 1, mark
        text = text.replace(mark, make())
    return text


def test_every_page_is_in_the_index_once() -> None:
    listed = re.findall(r"^[\w-]+$", text_of("docs/index.md"), re.MULTILINE)
    there = [Path(page).stem for page in pages() if page.startswith("docs/")]
    assert sorted(listed) == sorted(set(there) - {"index"})


def links() -> Iterator[tuple[str, str]]:
    for page in pages():
        text = re.sub(r"^```.*?^```$", "", made(page), flags=re.MULTILINE | re.DOTALL)
        for target in LINK.findall(text):
            yield page, target


def slug(heading: str) -> str:
    """As MyST and GitHub make it."""
    bare = re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", ""))
    return bare.replace(" ", "-")


@pytest.mark.parametrize(("page", "target"), [*links()])
def test_links_lead_somewhere(page: str, target: str) -> None:
    if target.startswith(("https://", "http://")):
        return
    place, _, heading = target.partition("#")
    path = (ROOT / page).parent / place if place else ROOT / page
    assert path.exists(), target
    if heading:
        text = made(str(path.resolve().relative_to(ROOT)))
        # Names hold for all pages.
        named = {name for each in pages() for name in NAME.findall(text_of(each))}
        assert heading in {*map(slug, HEADING.findall(text)), *named}


@pytest.mark.parametrize("name", ["openqwave", "openqwave.aio", "openqwave.qos2"])
def test_the_reference_has_every_name(name: str) -> None:
    module = import_module(name)
    page = made("docs/reference-qos2.md" if name == "openqwave.qos2" else "docs/reference.md")
    if ".. automodule:: openqwave.model.errors" in page:
        page += " ".join(vars(import_module("openqwave.model.errors")))
    missing = [
        one
        for one in module.__all__
        if not re.search(rf"(?<![\w.]){re.escape(one)}(?!\w)", page)
        and f"{name}.{one}\n" not in page
    ]
    assert missing == []


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="needs openqwave[docs]")
def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", tmp_path / "trees", ROOT / "docs", tmp_path / "html"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    # Of each face one name, and one command.
    reference = (tmp_path / "html/reference.html").read_text(encoding="utf-8")
    assert 'id="openqwave.Flow.set_rate"' in reference
    assert 'id="openqwave.aio.Flow.set_rate"' in reference
    windows = (tmp_path / "html/reference-qos2.html").read_text(encoding="utf-8")
    assert 'id="openqwave.qos2.QOSSetFlow"' in windows
    assert "NonConformantDSCPValue" in windows
    commands = (tmp_path / "html/commands.html").read_text(encoding="utf-8")
    assert "qwave policy explain" in commands
