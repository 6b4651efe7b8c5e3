"""Loss of a path, from small probes and those of them that came back.

The bounds are Wilson's ("Probable inference, the law of succession, and statistical inference",
Journal of the American Statistical Association 22, 1927): they stay within 0 and 1, and are not
zero wide where nothing was lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from openqwave.estimate.dispersion import CONFIDENCE, COVERAGE_FACTOR
from openqwave.estimate.samples import Gap
from openqwave.model.estimates import Doubt, Estimate, Estimated, Inconclusive

MILLION = 1_000_000


def loss_ppm(gaps: Sequence[Gap]) -> Estimated:
    """Estimate the share of the probes that do not come back, of a million; either way counts."""
    if not gaps:
        return Inconclusive(Doubt.NO_SAMPLES)
    count = len(gaps)
    share = sum(gap.is_lost for gap in gaps) / count
    z = COVERAGE_FACTOR
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count)
    reach *= math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Estimate(
        round(share * MILLION),
        max(0, round((middle - reach) * MILLION)),
        min(MILLION, round((middle + reach) * MILLION)),
        CONFIDENCE,
        "echo",
    )
