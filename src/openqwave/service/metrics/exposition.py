"""Readings as text, in the two formats that collectors ask for.

Prometheus' own, version 0.0.4, and OpenMetrics 1.0, which differs in where the ends of names stand,
in one kind more, and in a last line that tells a whole answer from one that was cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from openqwave.service.metrics.catalogue import Kind
from openqwave.service.metrics.requests import BOUNDS_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from openqwave.service.metrics.catalogue import Metric
    from openqwave.service.metrics.requests import Durations

PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_NS_PER_S: Final = 1_000_000_000
_LABEL: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_BOUNDS: Final = (*[f'le="{bound / _NS_PER_S}"' for bound in BOUNDS_NS], 'le="+Inf"')

# Label values in the order of the metric's labels, and a number; of a histogram, `Durations`.
Sample: TypeAlias = "tuple[tuple[str, ...], float | Durations]"


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric with all of its samples; without any, nothing is known of it now.

    Attributes:
        metric: Which.
        samples: Each set of labels once.
    """

    metric: Metric
    samples: tuple[Sample, ...]


def format_for(accept: str) -> str:
    """The type of content for a collector, by what it says that it takes."""
    return OPEN if "application/openmetrics-text" in accept.lower() else PLAIN


def text_of(reading: Reading, content_type: str) -> str:
    """One metric with its samples, as lines."""
    metric = reading.metric
    is_open = content_type == OPEN
    name = metric.name if is_open else metric.sample
    kind = metric.kind.value
    if metric.kind is Kind.INFO and not is_open:
        kind = "gauge"
    lines = [f"# HELP {name} {metric.text}", f"# TYPE {name} {kind}"]
    for labels, number in reading.samples:
        pairs = [
            f'{label}="{text.translate(_LABEL)}"'
            for label, text in zip(metric.labels, labels, strict=True)
        ]
        if isinstance(number, float | int):
            lines.append(f"{metric.sample}{_braces(pairs)} {number}")
        else:
            lines.extend(_histogram(metric.name, pairs, number))
    return "\n".join(lines) + "\n"


def whole(texts: Iterable[str], content_type: str) -> bytes:
    """An answer of the lines of all metrics."""
    end = "# EOF\n" if content_type == OPEN else ""
    # Names of interfaces may be no text at all.
    return ("".join(texts) + end).encode("utf-8", "replace")


def _braces(pairs: list[str]) -> str:
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _histogram(name: str, pairs: list[str], durations: Durations) -> Iterator[str]:
    count = 0
    for bound, more in zip(_BOUNDS, durations.counts, strict=True):
        count += more
        yield f"{name}_bucket{_braces([*pairs, bound])} {count}"
    yield f"{name}_sum{_braces(pairs)} {durations.sum_ns / _NS_PER_S}"
    yield f"{name}_count{_braces(pairs)} {count}"
