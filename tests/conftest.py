"""What all tests share: network namespaces where they can be had, and the guards around them."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from openqwave.lab.namespaces import Availability, Rights, availability, enter_user_namespace
from tests.turns import AloneLast, is_alone

if TYPE_CHECKING:
    from openqwave.lab.topology import Host, Lab

NAMESPACES = pytest.StashKey[Availability]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Become root of a user namespace where namespaces cannot be had otherwise."""
    # A service that happens to run on this machine is none of the tests' business.
    os.environ["QWAVE_SOCKET"] = ""
    found = availability()
    if found.rights is Rights.USER_NAMESPACE:
        # Inside, everybody is called root; pytest's folder for temporary files is named after
        # the user, and the real root may have one already.
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"
        enter_user_namespace()
    session.config.stash[NAMESPACES] = found


def pytest_report_header(config: pytest.Config) -> str:
    """Say how the kernel tests run, or why they do not."""
    found = config.stash[NAMESPACES]
    return f"network namespaces: {found.rights.value} {found.reason}".rstrip()


def has_other_users() -> bool:
    """Tell whether this process is root of more than one user id, "nobody" included."""
    mapped = int(Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2])
    return os.geteuid() == 0 and mapped > 65_534


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what cannot run here, with the reason; put last what has to run alone."""
    found = config.stash[NAMESPACES]
    items.sort(key=lambda item: is_alone(item.nodeid))
    for item in items:
        if item.get_closest_marker("kernel") and not found:
            item.add_marker(pytest.mark.skip(reason=found.reason))
        if item.get_closest_marker("root") and not has_other_users():
            item.add_marker(pytest.mark.skip(reason="needs root, and user ids other than its own"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> AloneLast:  # noqa: ANN401 - xdist's own
    """Where several processes run the tests, let some of them be alone."""
    return AloneLast(config, log)


@pytest.fixture(scope="module", autouse=True)
def settle() -> None:
    """Let what is there before a module's tests be collected, and then be left alone.

    Fixtures below, and Python itself, collect garbage again and again, and would look each time
    through all that pytest has collected and earlier tests have made: more than all tests do.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def process_subsystem_of_its_own() -> Iterator[None]:
    """Give each test a process-wide subsystem that no other test has used.

    What stays behind in one is meant to: a path is kept for two minutes after its last flow, and
    with it goes, in the middle of another test, what that has just told of it.
    """
    embedded = sys.modules.get("openqwave.client.embedded")
    if embedded is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "_instance", None)
        yield
        made = vars(embedded)["_instance"]
        if made is not None:
            made.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An empty lab."""
    # Here, because the netlink library takes long to import and most tests need none.
    from openqwave.lab.topology import Lab

    with Lab() as fresh:
        yield fresh


@pytest.fixture
def pair(lab: Lab) -> tuple[Host, Host]:
    """Two hosts, "left" and "right", on one link."""
    left, right = lab.host("left"), lab.host("right")
    lab.link(left, right)
    return left, right


def open_descriptors() -> dict[int, str]:
    """Return this process's descriptors and what they are of."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # The one that listed the directory.
            continue
    return found


@pytest.fixture
def fd_guard() -> Iterator[None]:
    """Fail the test if it leaves a descriptor open; name it before the other fixtures."""
    gc.collect()
    gc.freeze()
    before = open_descriptors()
    yield
    gc.collect()
    after = open_descriptors()
    assert after.items() <= before.items(), f"left open: {dict(after.items() - before.items())}"
