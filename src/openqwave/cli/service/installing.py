"""Putting the service in place: everything, or nothing of it.

Doing it again brings what is there up to date, and does nothing where it is.
"""

from __future__ import annotations

import contextlib
import pwd
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openqwave.cli.service import accounts, asking, contents, interpreters, manifest
from openqwave.cli.service.background import capabilities_of, missing_capabilities
from openqwave.cli.service.layout import USER
from openqwave.cli.service.placing import Placing
from openqwave.cli.service.troubles import CANNOT_RUN, Trouble

if TYPE_CHECKING:
    from openqwave.cli.interruption import Interruption
    from openqwave.cli.service.contents import Code, Content
    from openqwave.cli.service.layout import Layout
    from openqwave.cli.service.manifest import Manifest
    from openqwave.cli.service.supervision import Supervisor

# Reading a file; the interpreter's start is most of it.
_CHECK_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Installed:
    """What was done.

    Attributes:
        version: Of what is there now.
        interpreter: The Python that runs it.
        is_changed: Something had to be placed.
        is_started: It was started, or started anew.
        placed: Files and directories, by where they are.
        has_made_user: The user was made.
        keeps_config: There was a configuration, and it stays.
        supervisor: Who has started it; None in another root.
        pid: Its process.
        socket: Where it answers.
        missing: Capabilities that it would use and this host keeps from it.
    """

    version: str
    interpreter: str
    is_changed: bool
    placed: list[str]
    has_made_user: bool
    keeps_config: bool
    is_started: bool = False
    supervisor: str | None = None
    pid: int | None = None
    socket: str | None = None
    missing: tuple[str, ...] = ()


def install(layout: Layout, supervisor: Supervisor | None, interruption: Interruption) -> Installed:
    """Install, and start where there is somebody to start it.

    Raises:
        Trouble: It could not be done; all is as before.
        Interrupted: A signal came; likewise.
        OSError: A file could not be written; likewise.
    """
    former = manifest.load(layout)
    code = contents.Code()
    interpreter = _interpreter(former)
    files = contents.files(layout, interpreter)
    _refuse_strangers(layout, files, former)
    job = _Job(layout, former, files, code, interpreter, interruption)
    with Placing() as placing:
        if supervisor is not None:
            # The first to be noted is the last to be undone: with the former files in place.
            placing.undo_with(lambda: _start_again(supervisor, job))
        if job.is_needed():
            job.place(placing)
        done = job.done
        if supervisor is not None:
            done = _start(layout, supervisor, placing, job, interruption)
        manifest.save(replace(job.manifest, is_complete=True), layout)
        interruption.check()
        placing.keep()
    return done


def _interpreter(former: Manifest | None) -> str:
    if former is not None and interpreters.fits(former.interpreter):
        return former.interpreter
    return interpreters.find()


def _refuse_strangers(layout: Layout, files: dict[Path, Content], former: Manifest | None) -> None:
    """Replace nothing that is somebody else's."""
    ours = {} if former is None else former.files
    for place, content in files.items():
        found = manifest.digest_on_disk(layout.on_disk(place))
        if str(place) not in ours and found not in (None, manifest.digest_of(content.data)):
            raise Trouble(
                f"{layout.on_disk(place)} is there and was not placed by this command: remove it "
                "first, or name another --prefix",
                CANNOT_RUN,
            )
    if former is None and layout.on_disk(layout.code).exists():
        raise Trouble(
            f"{layout.on_disk(layout.code)} is there and was not placed by this command", CANNOT_RUN
        )


class _Job:
    """What has to be placed, and the record of it.

    Attributes:
        manifest: The record.
        done: What was done so far.
        has_restarted: What ran before was stopped for it.
    """

    def __init__(
        self,
        layout: Layout,
        former: Manifest | None,
        files: dict[Path, Content],
        code: Code,
        interpreter: str,
        interruption: Interruption,
    ) -> None:
        self._layout = layout
        self._former = former
        self._code = code
        self._interruption = interruption
        self.has_restarted = False
        self._files = dict(files)
        config = contents.example_config()
        there = manifest.digest_on_disk(layout.on_disk(layout.config))
        recorded = None if former is None else former.files.get(str(layout.config))
        # One that nobody has changed follows the version.
        self._keeps_config = there is not None and there != recorded
        if not self._keeps_config:
            self._files[layout.config] = config
        digests = {str(at): manifest.digest_of(each.data) for at, each in self._files.items()}
        if self._keeps_config and recorded is not None:
            digests[str(layout.config)] = recorded
        needs_user = layout.is_this_host and not accounts.is_there()
        self.manifest = manifest.Manifest(
            version=contents.version(),
            interpreter=interpreter,
            code_digest=code.digest,
            files=digests,
            directories=self._directories(),
            owned=self._owned(),
            has_made_user=needs_user or (former is not None and former.has_made_user),
            is_complete=True,
        )
        self._needs_user = needs_user
        self.done = Installed(
            version=self.manifest.version,
            interpreter=interpreter,
            is_changed=False,
            placed=[],
            has_made_user=False,
            keeps_config=self._keeps_config,
        )

    def _directories(self) -> list[str]:
        """Directories that are made for it, then or now; the inner ones first."""
        former = [] if self._former is None else self._former.directories
        missing = {
            str(parent)
            for place in (*self._files, self._layout.manifest)
            for parent in place.parents
            if not self._layout.on_disk(parent).exists()
        }
        return sorted({*former, *missing}, key=lambda each: (-each.count("/"), each))

    def _owned(self) -> list[str]:
        """What is the service's own with all that is in it, unless it was there before."""
        layout = self._layout
        former = [] if self._former is None else self._former.owned
        places = [layout.code]
        if layout.is_this_host:
            places += [layout.run, layout.state, layout.log]
        return [
            str(each) for each in places if str(each) in former or not layout.on_disk(each).exists()
        ]

    def is_needed(self) -> bool:
        """Is anything to be placed?"""
        if self._former != self.manifest or self._needs_user:
            return True
        return any(
            manifest.digest_on_disk(self._layout.on_disk(place)) != manifest.digest_of(each.data)
            for place, each in self._files.items()
        )

    def place(self, placing: Placing) -> None:
        """Place everything, the record of it first."""
        layout = self._layout
        placing.directory(layout.on_disk(layout.library))
        record = manifest.content_of(replace(self.manifest, is_complete=False))
        placing.file(layout.on_disk(layout.manifest), record, manifest.MODE)
        self._interruption.check()
        placed = []
        if self._former is None or self._former.code_digest != self._code.digest:
            placing.tree(layout.on_disk(layout.code), self._code.copy_to)
            placed.append(layout.code)
        for place, content in self._files.items():
            self._interruption.check()
            on_disk = layout.on_disk(place)
            placing.directory(on_disk.parent)
            if manifest.digest_on_disk(on_disk) != manifest.digest_of(content.data):
                placed.append(place)
            placing.file(on_disk, content.data, content.mode)
        if self._needs_user:
            placing.undo_with(_remove_user)
            accounts.make(layout.users)
        if layout.is_this_host:
            placing.undo_with(self._remove_owned)
        self.done = replace(
            self.done,
            is_changed=True,
            placed=[str(layout.on_disk(each)) for each in placed],
            has_made_user=self._needs_user,
        )

    def _remove_owned(self) -> None:
        """What the service made while it ran, unless it was there before."""
        former = [] if self._former is None else self._former.owned
        for each in self.manifest.owned:
            if each not in former:
                remove_owned(Path(each))


def remove_owned(path: Path) -> None:
    """Remove what is the service's own, with whatever is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_user() -> None:
    if accounts.is_there():
        accounts.remove()


def _start(
    layout: Layout,
    supervisor: Supervisor,
    placing: Placing,
    job: _Job,
    interruption: Interruption,
) -> Installed:
    _check_as_user(layout)
    interruption.check()
    was_running = supervisor.pid() is not None
    if not was_running:
        placing.undo_with(supervisor.stop)
        supervisor.start()
    elif job.done.is_changed:
        job.has_restarted = True
        supervisor.restart()
    is_started = job.done.is_changed or not was_running
    interruption.check()
    answer = asking.ask(supervisor.socket)
    if answer.status is None:
        raise Trouble(f"qwaved was started, and {answer.reason}\n{supervisor.log_tail()}".rstrip())
    unit = layout.on_disk(layout.units / "qwaved.service").read_text(encoding="utf-8")
    return replace(
        job.done,
        is_started=is_started,
        supervisor=supervisor.name,
        pid=answer.status.pid,
        socket=str(supervisor.socket),
        missing=tuple(missing_capabilities(capabilities_of(unit))),
    )


def _check_as_user(layout: Layout) -> None:
    """Read the configuration as the service will."""
    user = pwd.getpwnam(USER)
    done = subprocess.run(
        [str(layout.program), "--check"],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        env={},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_CHECK_S,
        check=False,
    )
    if done.returncode != 0:
        raise Trouble((done.stderr or done.stdout).strip() or f"{layout.program} cannot be run")


def _start_again(supervisor: Supervisor, job: _Job) -> None:
    """After all is undone: let what was there before run, if that was disturbed."""
    if job.has_restarted:
        with contextlib.suppress(Trouble):
            supervisor.restart()
