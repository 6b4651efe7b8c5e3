"""The rules of the house, checked on the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

import pytest

import openqwave
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import GeneralFailure, Refusal, error_of

ROOT = Path(__file__).parents[2]
PACKAGE = Path(openqwave.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Everything up to the subsystem gets time as an argument and answers with values.
PURE_ROOMS = ("model", "wire", "estimate", "probing", "admission", "ipc", "subsystem")
PURE = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] in PURE_ROOMS]
# What of the standard library pure rooms may import: what only computes. A list of what is
# allowed cannot be outdated by a new way to reach the world.
ALLOWED_IMPORTS = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "errno",  # numbers only
    "functools",
    "heapq",
    "ipaddress",
    "itertools",
    "json",  # text only
    "math",
    "msgspec",  # text only
    "operator",
    "statistics",
    "struct",
    "types",
    "typing",
}
FORBIDDEN_CALLS = {"open", "input", "print", "exec", "eval", "compile", "__import__", "breakpoint"}

# Modules that are longer than 400 lines, and why that is better than cutting them.
LONG: dict[str, str] = {
    "subsystem/engine.py": "one input, one handler each; the order of checks is read in one place",
    "client/sync.py": "one face: every call with the errors that it raises",
    "qos2/__init__.py": "the names of the Windows interface, listed twice: imported and offered",
}
MAX_LINES = 400

NO_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}

# Windows spelling: its functions, types and constants, and Hungarian parameters.
WINDOWS = re.compile(r"^(?:QOS[A-Z]\w+|QOS_\w+|(?:dw|lp|sz|cb)[A-Z]\w+|P?(?:DWORD|ULONG|HANDLE))$")
WINDOWS_ROOMS = ("qos2", "model/codes.py")


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module or ""


each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


# -- purity ---------------------------------------------------------------------------


def test_there_are_pure_rooms() -> None:
    assert {path.relative_to(PACKAGE).parts[0] for path in PURE} == set(PURE_ROOMS)


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_pure_rooms_import_what_only_computes(path: Path) -> None:
    outside = {
        name
        for name in imported(tree(path))
        if name.split(".")[0] not in ALLOWED_IMPORTS and name.split(".")[0] != "openqwave"
    }
    assert outside == set()
    rooms = {name.split(".")[1] for name in imported(tree(path)) if name.startswith("openqwave.")}
    assert rooms <= set(PURE_ROOMS)


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_pure_rooms_call_nothing_that_reaches_out(path: Path) -> None:
    called = {
        node.func.id
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & FORBIDDEN_CALLS


def at_import(body: list[ast.stmt]) -> Iterator[ast.expr]:
    """Bare expressions that run when a module is imported, docstrings apart."""
    for node in body:
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                continue
            case ast.Expr():
                yield node.value
            case ast.ClassDef():
                yield from at_import(node.body)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                continue
            case ast.If() | ast.For() | ast.While() | ast.With() | ast.Try():
                yield ast.Constant(f"line {node.lineno}")
            case _:
                continue


@each_module
def test_nothing_happens_at_import(path: Path) -> None:
    found = [ast.unparse(expression) for expression in at_import(tree(path).body)]
    assert found == []


# -- layers ---------------------------------------------------------------------------


def test_import_contracts_hold() -> None:
    script = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_room_is_in_the_layers() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = [
        contract["layers"]
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    listed = {room.strip() for layer in layers for room in layer.split("|")}
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == listed


# -- sizes and names ------------------------------------------------------------------


@each_module
def test_modules_are_short_or_say_why(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES or name_of(path) in LONG, f"{lines} lines"


def test_reasons_are_for_modules_that_exist() -> None:
    assert set(LONG) <= {name_of(path) for path in MODULES}


@each_module
def test_no_module_is_a_drawer(path: Path) -> None:
    words = {
        word for part in path.relative_to(PACKAGE).with_suffix("").parts for word in part.split("_")
    }
    assert not words & NO_NAMES


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if not name_of(path).startswith(WINDOWS_ROOMS)],
    ids=name_of,
)
def test_windows_spelling_stays_in_its_rooms(path: Path) -> None:
    with path.open("rb") as file:
        names = {
            token.string
            for token in tokenize.tokenize(file.readline)
            if token.type == tokenize.NAME and WINDOWS.match(token.string)
        }
    allowed = {name for name in names if is_imported_from_codes(path, name)}
    assert names - allowed == set()


def is_imported_from_codes(path: Path, name: str) -> bool:
    """A number of model/codes.py may be used by the name it has there."""
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "openqwave.model.codes"
        and name in {alias.name for alias in node.names}
        for node in ast.walk(tree(path))
    )


def test_the_pattern_knows_windows_spelling() -> None:
    known = ["QOSAddSocketToFlow", "QOS_FLOWRATE_OUTGOING", "dwFlags", "lpOverlapped", "PULONG"]
    assert all(WINDOWS.match(name) for name in known)
    assert not any(WINDOWS.match(name) for name in ["Qos", "QosError", "qos", "cb", "size", "SZ"])


# -- what the package offers ----------------------------------------------------------


def public_names(module: ModuleType) -> set[str]:
    """Names that a reader of the source would take for public."""
    found = set()
    for node in ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8")).body:
        match node:
            case ast.ImportFrom(module=source, names=names) if source != "__future__":
                found |= {alias.asname or alias.name for alias in names}
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case _:
                continue
    return {name for name in found if not name.startswith("_")}


@pytest.mark.parametrize("name", ["openqwave", "openqwave.aio"])
def test_all_is_complete(name: str) -> None:
    module = import_module(name)
    assert set(module.__all__) == public_names(module)
    assert len(module.__all__) == len(set(module.__all__))
    assert all(getattr(module, one) is not None for one in module.__all__)


def test_all_of_every_module_exists() -> None:
    for path in MODULES:
        for node in tree(path).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                module = import_module(dotted(path))
                missing = [one for one in module.__all__ if not hasattr(module, one)]
                assert missing == [], dotted(path)


def test_every_code_that_is_refused_with_has_a_class() -> None:
    # `error_of` makes a general failure of a code without one, and its name would be lost.
    used = {
        match[1]
        for path in MODULES
        if not name_of(path).startswith(("qos2", "model"))
        for match in re.finditer(r"ErrorCode\.(ERROR_\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(used) > 10
    lost = {
        name
        for name in used - {"ERROR_GEN_FAILURE", "ERROR_SUCCESS"}
        if type(error_of(Refusal(ErrorCode[name], ""))) is GeneralFailure
    }
    assert lost == set()


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Each costs tens of milliseconds to import or belongs to an extra that may not be there.
HEAVY = {"pyroute2", "typer", "rich", "matplotlib", "asyncio", "logging", "msgspec"}


@pytest.mark.parametrize(
    ("name", "heavy"),
    [("openqwave", HEAVY), ("openqwave.aio", HEAVY - {"asyncio", "logging"})],
)
def test_importing_is_light(name: str, heavy: set[str]) -> None:
    script = f"import sys, {name}; print(*{{one.split('.')[0] for one in sys.modules}})"
    # concurrent.futures imports logging, whatever we do.
    assert set(run(script).split()) & (heavy - {"logging"}) == set()


def test_a_flow_imports_nothing_heavy() -> None:
    script = """
import socket, sys
import openqwave as qw
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, qw.open() as qos:
    qos.add_socket(sock, ("127.0.0.1", 9), traffic_type=qw.TrafficType.VOICE, adaptive=False)
print(*{one.split(".")[0] for one in sys.modules})
"""
    assert set(run(script).split()) & {"pyroute2", "typer", "rich", "matplotlib"} == set()


def test_importing_needs_no_rights() -> None:
    # capset(2) of nothing: from there on the process is an ordinary one, root or not.
    script = """
import ctypes
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
import openqwave, openqwave.aio
from openqwave.drivers.credentials import own_credentials
print(own_credentials().has_net_admin, len(openqwave.__all__) > 10)
"""
    assert run(script).split() == ["False", "True"]


def test_importing_opens_nothing() -> None:
    script = """
import os
before = set(os.listdir("/proc/self/fd"))
import openqwave, openqwave.aio, threading
print(len(set(os.listdir("/proc/self/fd")) - before), threading.active_count())
"""
    assert run(script).split() == ["0", "1"]


# -- the project ----------------------------------------------------------------------


def project() -> dict[str, object]:
    read = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = read["project"]
    assert isinstance(found, dict)
    return found


def test_the_version_is_one() -> None:
    # Installed for development, the metadata is the last installation's.
    assert metadata.version("openqwave") == project()["version"]
    literals = [
        name_of(path)
        for path in MODULES
        if re.search(r"^__version__\s*=", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert literals == [], "the version stands in pyproject.toml alone"


def test_what_is_imported_is_declared() -> None:
    declared = {
        re.split(r"[<>=\[ ]", str(one))[0].lower()
        for group in [
            project()["dependencies"],
            *project()["optional-dependencies"].values(),  # type: ignore[attr-defined]  # a table
        ]
        for one in group
    }
    third = {
        name.split(".")[0]
        for path in MODULES
        for name in imported(tree(path))
        if name.split(".")[0] not in {*sys.stdlib_module_names, "openqwave"}
    }
    assert third <= declared


def test_the_python_that_is_asked_for() -> None:
    assert project()["requires-python"] == ">=3.11"
    assert sys.version_info >= (3, 11)
