"""What is tried for real: the program, nftables, a connection. All of it is closed at once."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openqwave.cli.doctor.checks.program import Trial
from openqwave.cli.doctor.filtering.iptables import SavedRules
from openqwave.cli.doctor.filtering.nft import Ruleset
from openqwave.cli.doctor.filtering.walk import Fate, Truth
from openqwave.enforcement.bpf import syscalls
from openqwave.enforcement.bpf.attachment import has_tcx
from openqwave.enforcement.bpf.creation import Creation
from openqwave.enforcement.bpf.program import EgressProgram, Sizes
from openqwave.enforcement.bpf.release import attach, cgroup_root
from openqwave.enforcement.bpf.rights import missing_right
from openqwave.enforcement.missing import MechanismMissing
from openqwave.enforcement.nft.library import Nft
from openqwave.enforcement.nft.netlink import Netfilter
from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.cli.doctor.filtering.walk import Packet
    from openqwave.cli.interruption import Interruption
    from openqwave.model.endpoint import Endpoint

# Just enough to have the program verified.
_SMALL: Final = Sizes(flows=16, sockets=16, destinations=16, claimants=16, fragmented=16)
_MOUNTS: Final = "/proc/thread-self/mountinfo"
# Every network namespace has it, with this index.
_LOOPBACK: Final = 1
# iptables of the older kind names its tables here; root only. Nothing is asked of a table that
# nobody has made, because asking would make it.
_LEGACY: Final = {
    4: ("/proc/thread-self/net/ip_tables_names", "iptables-legacy-save", "iptables-save"),
    6: ("/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy-save", "ip6tables-save"),
}
_PLACES: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
_SAVE_S: Final = 2.0
# Half the time of the whole command: a host on the link answers within milliseconds.
_CONNECT_S: Final = 1.0
# A kernel without nftables has no rules of it.
_ABSENT: Final = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
_UNTOLD: Final = "rules of nftables are told to CAP_NET_ADMIN only"
_NO_RIGHTS: Final = (errno.EPERM, errno.EACCES)


def try_program() -> Trial:
    """Load the programs with small tables, look whether they could be attached, and close them."""
    mounts = Path(_MOUNTS).read_text(encoding="utf-8", errors="surrogateescape")
    cgroups = cgroup_root(mounts) or ""
    lacks_rights = bool(missing_right())
    try:
        program = EgressProgram.load(_SMALL)
    except MechanismMissing as error:
        return Trial(str(error), lacks_rights=lacks_rights, cgroups=cgroups)
    with program:
        deaf = ""
        try:
            os.close(attach(program.programs.release, mounts))
        except MechanismMissing as error:
            deaf = str(error)
        with contextlib.closing(Creation(program.owners)) as creation:
            nameless = creation.begin()
        return Trial(
            "",
            lacks_rights=False,
            has_tcx=_tcx(),
            deaf=deaf,
            cgroups=cgroups,
            nameless=nameless,
        )


def programs_at(interface: int) -> int | None:
    """How many TCX programs are at an exit; None if that cannot be seen."""
    try:
        return len(syscalls.query(interface, syscalls.TCX_EGRESS))
    except OSError as error:
        # A kernel without TCX has none.
        return 0 if error.errno in (errno.EINVAL, errno.EOPNOTSUPP) else None


def _tcx() -> bool | None:
    try:
        return has_tcx(_LOOPBACK)
    except OSError:
        return None


@value
class Rules:
    """The firewalls of this network namespace.

    Attributes:
        firewalls: Each says what becomes of a packet.
        marking: Rules that write marks, in words.
        trouble: Why not all can be seen; empty if they can.
        nft_trouble: Why nftables cannot be had; empty if it can.
        lacks_rights: Whether that is for want of rights.
    """

    firewalls: tuple[Callable[[Packet], Fate], ...]
    marking: tuple[str, ...]
    trouble: str
    nft_trouble: str
    lacks_rights: bool


def read_rules() -> Rules:
    """Read the rules of nftables and of both kinds of iptables, as far as rights allow."""
    firewalls: list[Callable[[Packet], Fate]] = []
    marking: list[str] = []
    troubles: list[str] = []
    nft_trouble, lacks_rights = "", False
    try:
        # Without rights the library writes to standard error.
        with contextlib.closing(Netfilter()) as netfilter:
            netfilter.generation()
        with Nft(as_json=True) as nft:
            ruleset = Ruleset(nft.run("list ruleset"))
        firewalls.append(ruleset.fate_of)
        marking += ruleset.marking_rules()
    except OSError as error:
        lacks_rights = error.errno in _NO_RIGHTS
        nft_trouble = _UNTOLD if lacks_rights else error.strerror or str(error)
        if error.errno not in _ABSENT:
            troubles.append(nft_trouble)
    except (ValueError, KeyError, TypeError) as error:
        troubles.append(f"the rules of nftables are not understood: {error!r}")
    for version in _LEGACY:
        saved, trouble = _saved(version)
        if saved is not None:
            firewalls.append(_of_version(saved, version))
            marking += saved.marking_rules()
        if trouble:
            troubles.append(trouble)
    words = "; ".join(dict.fromkeys(troubles))
    return Rules(tuple(firewalls), tuple(marking), words, nft_trouble, lacks_rights)


def _of_version(saved: SavedRules, version: int) -> Callable[[Packet], Fate]:
    def fate_of(packet: Packet) -> Fate:
        return saved.fate_of(packet) if packet.version == version else Fate(Truth.YES)

    return fate_of


def _saved(version: int) -> tuple[SavedRules | None, str]:
    """The rules of iptables' older kind; None where there are none, or why they cannot be seen."""
    path, *programs = _LEGACY[version]
    try:
        tables = Path(path).read_text(encoding="ascii").split()
    except PermissionError:
        return None, "tables of iptables are told to root only"
    except OSError:
        # A kernel without it.
        return None, ""
    if not tables:
        return None, ""
    program = next(filter(None, (shutil.which(each, path=_PLACES) for each in programs)), None)
    if program is None:
        names = ", ".join(tables)
        return None, f"iptables has tables ({names}); install the package iptables to see them"
    try:
        done = subprocess.run(
            [program], capture_output=True, text=True, timeout=_SAVE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{program}: {error}"
    if done.returncode:
        return None, f"{program}: {done.stderr.strip().partition(chr(10))[0]}"
    return SavedRules(done.stdout, version), ""


def try_connection(host: Endpoint, interruption: Interruption) -> OSError | None:
    """Connect to the sink of a host, and close at once; why it could not be done.

    Raises:
        Interrupted: A signal came.
    """
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        name = (str(host.address), host.port)
        where = name if family is socket.AF_INET else (*name, 0, host.scope_id)
        code = sock.connect_ex(where)
        if code == errno.EINPROGRESS:
            code = errno.ETIMEDOUT
            if interruption.wait_writable(sock.fileno(), _CONNECT_S):
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return OSError(code, _words(code)) if code else None


def _words(code: int) -> str:
    return f"no answer within {_CONNECT_S:g} s" if code == errno.ETIMEDOUT else os.strerror(code)
