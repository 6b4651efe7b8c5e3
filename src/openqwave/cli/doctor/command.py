"""The whole of `qwave doctor`, in order: look, judge, show; and the exit status.

It takes less than a second. Where it takes longer, as when a host does not answer, a terminal is
told what is being looked at.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from openqwave.cli.doctor.examination import Examination
from openqwave.cli.doctor.findings import unknown
from openqwave.cli.doctor.report import Diagnosis
from openqwave.cli.interruption import Interrupted, Interruption
from openqwave.cli.overview.showing import view
from openqwave.cli.overview.words import clean
from openqwave.cli.probe.target import BadHostError, resolve
from openqwave.model.errors import QosError

if TYPE_CHECKING:
    from openqwave.cli.doctor.findings import Finding

NOTHING_MISSING, MISSING, CANNOT_LOOK = 0, 1, 2
# Nobody wonders earlier.
_PROGRESS_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        host: The host to look towards; None for none.
        as_json: A document instead of a page.
    """

    host: str | None = None
    as_json: bool = False


def run_doctor(options: Options) -> int:
    """Look and show; return the exit status."""
    try:
        with Interruption() as interruption:
            target = None
            if options.host is not None:
                target = resolve(options.host, None, interruption)[0]
            diagnosis = Diagnosis(
                _findings(Examination(options.host, target, interruption)), options.host
            )
            with view(as_json=options.as_json, watches=False) as shown:
                shown.show(diagnosis)
            return MISSING if diagnosis.is_missing else NOTHING_MISSING
    except Interrupted as interrupted:
        sys.stderr.write("Interrupted.\n")
        return interrupted.status
    except BadHostError as error:
        sys.stderr.write(f"{clean(str(error))}\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stderr.write(f"The kernel cannot be asked: {error.strerror or error}.\n")
    return CANNOT_LOOK


def _findings(examination: Examination) -> list[Finding]:
    """What all steps find; one that fails says why, and the others go on."""
    found: list[Finding] = []
    began_s = time.monotonic()
    for topic, step in examination.steps():
        if time.monotonic() - began_s > _PROGRESS_S and sys.stderr.isatty():
            sys.stderr.write(f"looking at: {topic}\n")
        try:
            found += step()
        except (OSError, QosError) as error:
            why = getattr(error, "strerror", None) or str(error)
            found.append(unknown(topic, f"cannot be looked at: {why}"))
    return found
