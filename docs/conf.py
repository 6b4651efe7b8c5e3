"""Sphinx configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# `docs.made`, whichever directory Sphinx was started in.
sys.path.insert(0, str(Path(__file__).parents[1]))

project = "openqwave"
author = "the openqwave developers"
project_copyright = "2026, the openqwave developers"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "made"]
html_theme = "furo"
html_title = "openqwave"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def _fill_in(_: Sphinx, page: str, source: list[str]) -> None:
    """Put what is made from the code where a page has room for it."""
    from docs.made import MADE

    for mark, make in MADE.get(page, {}).items():
        source[0] = source[0].replace(mark, make())


def _always_anew(*_: Any) -> list[str]:  # noqa: ANN401 - Sphinx's
    """These pages have no file whose time would tell that the code has changed."""
    from docs.made import MADE

    return list(MADE)


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.connect("source-read", _fill_in)
    app.connect("env-get-outdated", _always_anew)
