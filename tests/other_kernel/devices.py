"""Queues and devices that a kernel may lack, made on the lab's hosts by iproute2 and iw."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from openqwave.lab.hosts import Host, Interface

# What iproute2 says where the kernel has no such queue or device.
UNKNOWN = ("Specified qdisc kind is unknown", "Unknown device type", "Operation not supported")


def run(host: Host, *argv: str) -> str:
    """Run a program on a host; what it wrote. AssertionError with its words if it failed."""
    # A process starts in the network of the thread that starts it.
    done = host.run(subprocess.run, argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
    return str(done.stdout)


def needed(*programs: str) -> None:
    """Skip the test where programs are missing; names them, which are Debian's packages too."""
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"missing: {' '.join(missing)} (apt-get install {' '.join(missing)})")


def or_skip(host: Host, *argv: str) -> None:
    """Run a program, and skip the test if what it asks for is nothing that this kernel knows."""
    needed(argv[0])
    try:
        run(host, *argv)
    except AssertionError as error:
        if any(words in str(error) for words in UNKNOWN):
            pytest.skip(f"this kernel knows no such thing: {' '.join(argv)}")
        raise


def set_queue(interface: Interface, *queue: str) -> None:
    """Make a queue an interface's root; skip the test where the kernel has none of its kind."""
    or_skip(interface.host, "tc", "qdisc", "replace", "dev", interface.name, "root", *queue)


def statistics(interface: Interface) -> str:
    """What tc tells about an interface's queues."""
    return run(interface.host, "tc", "-s", "qdisc", "show", "dev", interface.name)
