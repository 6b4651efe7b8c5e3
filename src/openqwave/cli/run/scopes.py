"""A place where a cgroup may be made, asked of systemd.

The session of an ordinary user's login stands in a cgroup that is root's. systemd makes another one
for whoever asks (`systemd-run --user --scope`), below the user's own manager; it belongs to the
user (``Delegate=yes``), and the command stays a child of its shell. So this program has itself
started once more in there.

What keeps systemd from it, it says in its own way; a trial with a command that does nothing, some
hundredths of a second, tells it before anything depends on it.

Sources: systemd-run(1), systemd.scope(5), systemd.resource-control(5).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from openqwave.cli.run.wishes import spelled
from openqwave.drivers.cgroups import CgroupTrouble

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from openqwave.cli.run.wishes import Wish

# There where systemd runs the machine (sd_booted(3)).
BOOTED: Final = Path("/run/systemd/system")
_ASKER: Final = "systemd-run"
# A manager that starts nothing for so long is stuck.
_PATIENCE_S: Final = 20.0

IN_SCOPE: Final = "--in-scope"


def become_in_scope(
    wish: Wish,
    command: Sequence[str],
    reason: CgroupTrouble,
    environment: Mapping[str, str],
    *,
    is_verbose: bool,
) -> NoReturn:
    """Start this program once more, in a cgroup that belongs to the user.

    Args:
        wish: What the command's traffic is to get.
        command: It.
        reason: Why it cannot be done here.
        environment: What the command is to find.
        is_verbose: As for `qwave run`.

    Raises:
        CgroupTrouble: There is no systemd that would do it.
    """
    asker = shutil.which(_ASKER)
    if not BOOTED.is_dir() or asker is None:
        raise CgroupTrouble(
            f"{reason}, and there is no systemd to ask for another place; run it as root"
        ) from reason
    asking = [asker, *([] if os.geteuid() == 0 else ["--user"]), "--scope", "--quiet", "--collect"]
    asking += ["--property=Delegate=yes", "--"]
    _try_out(asking, reason, environment)
    own = [sys.executable, "-P", "-m", "openqwave.cli", "run", IN_SCOPE, *spelled(wish)]
    own += [*(["--verbose"] if is_verbose else []), "--", *command]
    try:
        os.execve(asker, [*asking, *own], environment)  # noqa: S606 - there is no shell
    except OSError as error:
        raise CgroupTrouble(f"{reason}, and {asker}: {error.strerror}") from error


def _try_out(asking: Sequence[str], reason: CgroupTrouble, environment: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            [*asking, "true"],
            capture_output=True,
            check=False,
            env=environment,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    else:
        if done.returncode == 0:
            return
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
    raise CgroupTrouble(
        f"{reason}, and systemd makes no scope for this user ({said}); log in anew, or run it as "
        "root"
    ) from reason
