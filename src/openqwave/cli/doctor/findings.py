"""What a check comes to: a verdict, the reason for it, and what would help."""

from __future__ import annotations

from enum import StrEnum

from openqwave.model.value import value


class Verdict(StrEnum):
    """How it stands with something.

    OK: It works. LIMITED: something does not, and what there is does without it or in part.
    MISSING: something that is needed is not there. UNKNOWN: it could not be seen.
    """

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"
    UNKNOWN = "unknown"


@value
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: What it is about, in a word or two; the same word on every host.
        subject: Which one, such as the name of an interface; empty where there is only one.
        verdict: How it stands.
        reason: Why, as a sentence for people.
        fix: What would help; empty where nothing is to be done.
    """

    topic: str
    subject: str
    verdict: Verdict
    reason: str
    fix: str = ""


def ok(topic: str, reason: str, subject: str = "") -> Finding:
    """It works."""
    return Finding(topic, subject, Verdict.OK, reason)


def limited(topic: str, reason: str, fix: str = "", subject: str = "") -> Finding:
    """It works in part, or something else stands in for it."""
    return Finding(topic, subject, Verdict.LIMITED, reason, fix)


def missing(topic: str, reason: str, fix: str, subject: str = "") -> Finding:
    """It is needed and not there."""
    return Finding(topic, subject, Verdict.MISSING, reason, fix)


def unknown(topic: str, reason: str, fix: str = "", subject: str = "") -> Finding:
    """It could not be seen."""
    return Finding(topic, subject, Verdict.UNKNOWN, reason, fix)
