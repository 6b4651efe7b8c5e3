"""What there is to say of a mechanism that this host does not offer."""

from __future__ import annotations


class MechanismMissing(Exception):
    """A mechanism cannot be had; the text says what is missing, and what would help."""
