"""`python -m docs.made`: writes what is made from the command and kept in the tree."""

from __future__ import annotations

from pathlib import Path

from docs.made.manual import manual

PAGE = Path(__file__).parents[2] / "packaging/man/qwave.1"

if __name__ == "__main__":
    PAGE.write_text(manual(), encoding="utf-8")
