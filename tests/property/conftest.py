"""One fixed profile, so that the same examples run everywhere and always."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# derandomize: the examples follow from the test's source, so a failure is the same failure
# on every machine. No deadline: machines differ in speed, and nothing here is about time.
settings.register_profile(
    "openqwave",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("openqwave")
