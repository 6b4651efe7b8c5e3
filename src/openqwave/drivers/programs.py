"""Which program a process is: its file, its user, its cgroup, as /proc has them.

The file of a process of another user can be read by root and with CAP_SYS_PTRACE alone; its user
and its cgroup by everybody. What cannot be read is not known, and said so. The address that packets
leave with is the kernel's choice by its routes; connecting a UDP socket asks it and sends nothing.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import socket
import stat
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from openqwave.admission.rules import Program
from openqwave.model.cgroups import DELETED, group_in

# The host's files as its first process sees them, for a service that is shown fewer.
_HOST: Final = "/proc/1/root"


class NoProcess(Exception):
    """There is no process of that number; the text says so."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A process, or what is known of a program that is only named.

    Attributes:
        program: It.
        unknown: What could not be found out, each as a sentence.
    """

    program: Program
    unknown: tuple[str, ...] = ()


def process_program(pid: int) -> Seen:
    """Which program a process is now.

    Args:
        pid: Its number.

    Raises:
        NoProcess: There is none.
    """
    folder = Path(f"/proc/{pid}")
    unknown: list[str] = []
    try:
        uid = _uid_of(folder)
        cgroup = _cgroup_of(folder)
    except OSError as error:
        raise NoProcess(f"there is no process {pid}: {error.strerror or error}") from error
    path = None
    try:
        path = os.readlink(folder / "exe").removesuffix(DELETED)
    except FileNotFoundError as error:
        if not folder.exists():
            raise NoProcess(f"there is no process {pid}") from error
        unknown.append("its executable: it is a thread of the kernel, or has ended")
    except OSError as error:
        unknown.append(
            f"its executable: {error.strerror or error}; root may look at processes of other users"
        )
    if cgroup is None:
        unknown.append("its cgroup: this host has no unified hierarchy (cgroup v2)")
    return Seen(
        Program(
            path=path,
            name=None if path is None else os.path.basename(path),
            user=_user_name(uid),
            uid=uid,
            cgroup=cgroup,
        ),
        tuple(unknown),
    )


def named_program(name: str, user: str | None = None, cgroup: str | None = None) -> Seen:
    """What is known of a program that need not run.

    Args:
        name: Its path, or a name that is looked for where the shell would.
        user: Who would run it, by name or number; None where that is not known.
        cgroup: Where it would run, likewise.
    """
    found = name if "/" in name else shutil.which(name)
    path = None if found is None else os.path.realpath(found)
    unknown = []
    if path is None:
        unknown.append(f"its path: there is no {name} where programs are looked for (PATH)")
    user_name, uid = _user_of(user)
    if user is None:
        unknown.append("its user: --user names one")
    elif uid is None:
        unknown.append(f"its user's number: there is no user {user} on this host")
    if cgroup is None:
        unknown.append("its unit and cgroup: --cgroup names one")
    program = Program(
        path=path,
        name=os.path.basename(path or name),
        user=user_name,
        uid=uid,
        cgroup=cgroup,
    )
    return Seen(program, tuple(unknown))


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """The file that a process runs.

    Attributes:
        path: Where it is or was, in the eyes of the process.
        inode: Its number.
        is_deleted: It is there no more, as after an update.
    """

    path: str
    inode: int
    is_deleted: bool


def program_file(pid: int) -> ProgramFile | None:
    """Which file a process runs; None for a thread of the kernel, or one that has ended.

    Raises:
        PermissionError: It may not be looked at.
    """
    link = f"/proc/{pid}/exe"
    try:
        path = os.readlink(link)
        inode = os.stat(link).st_ino
    except PermissionError:
        raise
    except OSError:
        return None
    return ProgramFile(path.removesuffix(DELETED), inode, path.endswith(DELETED))


def inode_of(path: str) -> tuple[int | None, str]:
    """The number of a program's file, and why it has none.

    The file is looked for where the host has it, whatever part of the host's files this process
    can see; a link is none, as processes are known by the file that it leads to.
    """
    for root in (_HOST, ""):
        try:
            parts = path.strip("/").split("/")
            for end in range(1, len(parts) + 1):
                above = "/" + "/".join(parts[:end])
                found = os.lstat(root + above)
                if stat.S_ISLNK(found.st_mode):
                    return None, f"{above} is a link to {os.readlink(root + above)}; name the file"
            return found.st_ino, ""
        except FileNotFoundError:
            reason = f"there is no {path}"
        except OSError as error:
            reason = f"{path} cannot be looked at: {error.strerror}"
    return None, reason


def own_address_towards(remote: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address | None:
    """The address that packets to another one leave with; None where there is no way.

    Args:
        remote: The other address; with its scope if it is link-local.
    """
    family = socket.AF_INET if remote.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            # Any port; nothing is sent.
            sock.connect(socket.getaddrinfo(str(remote), 9, type=socket.SOCK_DGRAM)[0][4])
            own: str = sock.getsockname()[0]
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return None
    return ip_address(own)


def _uid_of(folder: Path) -> int:
    """The effective uid, by which rights are judged."""
    for line in _text_of(folder / "status").splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[2])
    raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))


def _cgroup_of(folder: Path) -> str | None:
    group = group_in(_text_of(folder / "cgroup"))
    return None if group is None else group.removesuffix(DELETED)


def _text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _user_of(user: str | None) -> tuple[str | None, int | None]:
    """A user's name and number, as far as this host knows them."""
    if user is None:
        return None, None
    try:
        known = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return user, int(user) if user.isdecimal() else None
    return known.pw_name, known.pw_uid
