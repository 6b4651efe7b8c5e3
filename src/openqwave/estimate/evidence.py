"""Page's tests: that something has changed, told as soon as the samples bear it.

A sum rises with what speaks for the change and falls with what speaks against it, down to 0, where
it begins anew; at a limit the change is told (Page, "Continuous Inspection Schemes", Biometrika 41,
1954). Such a test is the fastest of all that are as seldom wrong (Moustakides, "Optimal Stopping
Times for Detecting Changes in Distributions", Annals of Statistics 14, 1986).

**A level of waits.** With the excess `x` of a wait over the slack, in slacks::

    S = max(0, S + x min(max(1, x), 2) dt)        told at S = patience

A wait of twice the slack is told after the patience, one of three times in a quarter of it: what
overfills a link by half fills its queue at once, and what overfills it by a twentieth makes 50 ms
in a second, which random arrivals at a high load are about to do as well. It is over when waits
have been below three quarters of the slack for some time, so that what hovers at the level changes
the verdict seldom.

**A share of losses.** Each packet adds the logarithm of how much more likely its fate is with the
share that is looked for than with the usual one, which is learned all the time. It is over when
packets that arrive have taken the evidence of ten thousand to one for what was seen.
"""

from __future__ import annotations

from math import log

# Below this part of the slack a wait is calm; one that is not takes back one that is.
CALM_PART = 0.75
# A wait far above the slack may be one burst: it counts no more than this.
MOST_WEIGHT = 2.0

# Loss that is granted to every path, and the most that is taken for usual.
LEAST_SHARE, MOST_SHARE = 0.01, 0.25
# Before anything was seen: as if 2 of 100 had been lost, what a fair Wi-Fi link does.
PRIOR_LOST, PRIOR_COUNT = 2.0, 100.0
# Memory of the usual loss, in packets: 20 s at 100 a second.
SHARE_MEMORY = 2000.0
# How many times the usual share is looked for.
TIMES_SHARE = 3.0
# What would have to be over is what was seen, of so many packets; at least this many times the
# usual, or nothing could tell the two apart, and at most this, for a few packets that arrive in a
# row must not be enough.
SEEN_MEMORY, LEAST_TIMES, MOST_SEEN = 300.0, 2.0, 0.4
# Odds of a million to one tell: at 100 packets a second, less than once in an hour by chance. Odds
# of ten thousand to one end it.
SURE_OF_LOSS, SURE_OF_CALM = log(1e6), log(1e4)


class Standing:
    """Page's test of a level, with hysteresis.

    Args:
        slack_ns: What a wait may be.
        patience_ns: How long one of twice the slack may last.
        calm_ns: How long it has to be gone.
    """

    def __init__(self, slack_ns: int, patience_ns: int, calm_ns: int) -> None:
        self.slack_ns, self.patience_ns = slack_ns, patience_ns
        self.is_standing = False
        self._calm_ns = calm_ns
        self._sum_ns = 0.0

    def observe(self, wait_ns: int, step_ns: int, calm_step_ns: int) -> None:
        """Take a wait that speaks for some time."""
        if self.is_standing:
            is_calm = wait_ns < CALM_PART * self.slack_ns
            # Counted down, from `_calm_ns`.
            self._sum_ns -= calm_step_ns if is_calm else -calm_step_ns
            self._sum_ns = min(self._sum_ns, self._calm_ns)
            if self._sum_ns <= 0:
                self.clear()
            return
        excess = wait_ns / self.slack_ns - 1
        weight = min(max(1.0, excess), MOST_WEIGHT)
        self._sum_ns = max(0.0, self._sum_ns + excess * weight * step_ns)
        if self._sum_ns >= self.patience_ns:
            self.is_standing, self._sum_ns = True, self._calm_ns

    def clear(self) -> None:
        """Nothing stands any more."""
        self.is_standing, self._sum_ns = False, 0.0


class Losses:
    """Page's test of a share of losses against the usual one.

    Args:
        congested_share: The least that is looked for.
    """

    def __init__(self, congested_share: float) -> None:
        self.is_lossy = False
        self._congested_share = congested_share
        self._lost, self._count = PRIOR_LOST, PRIOR_COUNT
        self._evidence = 0.0
        # Since the evidence was 0.
        self._seen_lost = self._seen = 0.0

    @property
    def usual_share(self) -> float:
        """What the path loses when it is not congested."""
        return min(MOST_SHARE, max(LEAST_SHARE, self._lost / self._count))

    def observe(self, lost: int, returned: int) -> None:
        """Take packets, some of which were lost."""
        usual = self.usual_share
        self._seen_lost += lost
        self._seen += lost + returned
        if self.is_lossy:
            self._weigh(lost, returned, min(MOST_SEEN, max(LEAST_TIMES * usual, self.seen_share)))
            self._evidence = min(self._evidence, SURE_OF_CALM)
            if self._seen > SEEN_MEMORY:
                self._seen_lost *= SEEN_MEMORY / self._seen
                self._seen = SEEN_MEMORY
        else:
            self._weigh(lost, returned, max(self._congested_share, TIMES_SHARE * usual))
            self._learn(lost, returned)
            if self._evidence >= SURE_OF_LOSS:
                self.is_lossy, self._evidence = True, SURE_OF_CALM
        if self._evidence <= 0:
            self.clear()

    def _weigh(self, lost: int, returned: int, wanted: float) -> None:
        usual = self.usual_share
        self._evidence += lost * log(wanted / usual)
        self._evidence += returned * log((1 - wanted) / (1 - usual))

    @property
    def seen_share(self) -> float:
        """What has lately been lost, since it seemed to be more than usual."""
        return self._seen_lost / self._seen if self._seen else 0.0

    def clear(self) -> None:
        """Nothing speaks for more than the usual loss."""
        self.is_lossy, self._evidence = False, 0.0
        self._seen_lost = self._seen = 0.0

    def accept(self) -> None:
        """What is lost now is the usual."""
        self._lost = self.seen_share * self._count
        self.clear()

    def _learn(self, lost: int, returned: int) -> None:
        self._lost += lost
        self._count += lost + returned
        if self._count > SHARE_MEMORY:
            self._lost *= SHARE_MEMORY / self._count
            self._count = SHARE_MEMORY
