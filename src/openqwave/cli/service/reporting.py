"""What the commands tell: lines for people, or one JSON object with "format" and "command".

The fields are those of `Installed`, `Removed` and `Seen`; what a command refuses to do is on
standard error, in words, either way.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from openqwave.cli.service.installing import Installed
    from openqwave.cli.service.layout import Layout
    from openqwave.cli.service.looking import Seen
    from openqwave.cli.service.removing import Removed

FORMAT: Final = 1
_NS_PER_S: Final = 1_000_000_000
_NAME_WIDTH: Final = 11


def tell_installed(done: Installed, layout: Layout, *, as_json: bool) -> None:
    """Tell of an installation."""
    if as_json:
        _write_json("install", asdict(done) | _where(layout))
    else:
        _write("\n".join(_installed_lines(done, layout)))


def tell_removed(done: Removed | None, layout: Layout, *, as_json: bool) -> None:
    """Tell of a removal."""
    if as_json:
        fields = {} if done is None else asdict(done)
        _write_json("uninstall", {"was_installed": done is not None} | fields | _where(layout))
    elif done is None:
        _write(f"nothing is installed below {layout.prefix}")
    else:
        _write("\n".join(_removed_lines(done)))


def tell_seen(seen: Seen, layout: Layout, *, as_json: bool) -> None:
    """Tell how it is."""
    if as_json:
        _write_json("status", _seen_fields(seen) | _where(layout))
    else:
        _write("\n".join(_seen_lines(seen, layout)))


def _where(layout: Layout) -> dict[str, Any]:
    return {"root": str(layout.root), "prefix": str(layout.prefix)}


def _installed_lines(done: Installed, layout: Layout) -> list[str]:
    lines = [f"placed     {each}" for each in done.placed]
    if done.has_made_user:
        lines.append("made       the user qwave")
    if done.keeps_config:
        lines.append(f"kept       {layout.on_disk(layout.config)}, as it is")
    if not done.is_changed:
        lines.append(f"unchanged  openqwave {done.version} was in place")
    if done.supervisor is None:
        lines.append("not started, since it is in another root")
        return lines
    verb = "started" if done.is_started else "runs"
    how = (
        "by systemd, now and whenever the host starts"
        if done.supervisor == "systemd"
        else "in the background: no service manager runs here, so it will not start with the host"
    )
    lines.append(f"{verb:<11}process {done.pid}, {how}")
    lines.append(f"answers    at {done.socket}")
    if done.missing:
        lines.append(f"without    {', '.join(done.missing)}, which this host keeps from root")
    return lines


def _removed_lines(done: Removed) -> list[str]:
    lines = ["stopped    qwaved"] if done.has_stopped else []
    lines += [f"removed    {each}" for each in done.removed]
    if done.has_removed_user:
        lines.append("removed    the user qwave")
    lines += [f"kept       {each}, which was changed" for each in done.kept]
    return lines


def _seen_lines(seen: Seen, layout: Layout) -> list[str]:
    record = seen.record
    if record is None:
        lines = [_row("installed", f"no, nothing below {layout.on_disk(layout.prefix)}")]
    else:
        half = "" if record.is_complete else ", but not completely: install it again"
        lines = [
            _row(
                "installed",
                f"openqwave {record.version} below {layout.on_disk(layout.prefix)}, run by "
                f"{record.interpreter}{half}",
            )
        ]
    if seen.supervisor is None:
        return lines
    if seen.pid is None:
        lines.append(_row("running", "no"))
    else:
        since = "" if seen.uptime_ns is None else f", since {_since(seen.uptime_ns)}"
        lines.append(_row("running", f"process {seen.pid}{since}, kept by {seen.supervisor}"))
    if seen.status is None:
        lines.append(_row("reachable", f"no: {seen.reason}"))
        lines += [_row("said", line) for line in seen.log.splitlines()]
    else:
        lines.append(_row("reachable", f"{seen.status.service} at {seen.socket}"))
        lines.append(_row("config", seen.status.config_file or "none"))
    return lines


def _seen_fields(seen: Seen) -> dict[str, Any]:
    return {
        "installed": None if seen.record is None else asdict(seen.record),
        "supervisor": seen.supervisor,
        "pid": seen.pid,
        "uptime_ns": seen.uptime_ns,
        "socket": seen.socket,
        "is_reachable": seen.status is not None,
        "reason": seen.reason or None,
        "log": seen.log or None,
        "status": msgspec.to_builtins(seen.status),
    }


def _row(name: str, text: str) -> str:
    return f"{name:<{_NAME_WIDTH}}{text}"


def _since(uptime_ns: int) -> str:
    began_s = (time.time_ns() - uptime_ns) / _NS_PER_S
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began_s))


def _write_json(command: str, fields: dict[str, Any]) -> None:
    _write(json.dumps({"format": FORMAT, "command": command} | fields, indent=2))


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
