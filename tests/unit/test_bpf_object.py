"""The kernel's program as it is shipped: what is in the object, and that it is of its source."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from openqwave.enforcement.bpf import elf, layout, program
from openqwave.enforcement.missing import MechanismMissing

ROOT = Path(__file__).parents[2]
OBJECTS = {
    name: resources.files("openqwave.enforcement.bpf").joinpath(f"{name}.bpf.o").read_bytes()
    for name in ("egress", "created")
}
DATA = OBJECTS["egress"]
# The shipped object is this one's work; others make other bytes of the same source.
CLANG = "14."


def test_what_is_in_it() -> None:
    found = elf.read(DATA)
    assert set(found.programs) == {"egress", "egress_untagged", "egress_raw", "release"}
    assert set(found.maps) == {
        "sockets",
        "destinations",
        "treatments",
        "meters",
        "fragments",
        "settings",
        "released",
        "owners",
        "banks",
        "users",
        "executables",
        "groups",
        "attached",
        "rules",
        "closings",
        "scratches",
    }
    for code in found.programs.values():
        assert len(code.instructions) % elf.INSTRUCTION_BYTES == 0
        assert set(code.maps.values()) <= set(found.maps)
    assert found.license == "Apache-2.0"


def test_the_structures_are_the_compilers() -> None:
    found = elf.read(DATA)
    assert found.layout == layout.LAYOUT
    sizes = {name: (shape.key_bytes, shape.value_bytes) for name, shape in found.maps.items()}
    assert sizes["sockets"] == (layout.COOKIE.size, layout.SOCKET.size)
    assert sizes["destinations"] == (layout.DESTINATION_BYTES, layout.SLOT.size)
    assert sizes["owners"] == (layout.SLOT.size, layout.OWNER.size)
    assert sizes["banks"] == (layout.SLOT.size, layout.BANK.size)
    assert sizes["users"] == (layout.USER.size, layout.COOKIE.size)
    assert sizes["executables"] == (layout.EXECUTABLE.size, layout.COOKIE.size)
    assert sizes["groups"] == (layout.GROUP.size, layout.PLACE.size)
    assert sizes["attached"] == (layout.COOKIE.size, layout.SLOT.size)
    assert sizes["rules"] == (layout.SLOT.size, layout.RULE.size)
    assert sizes["closings"] == (layout.CONNECTION_BYTES, layout.CLOSING_BYTES)
    assert sizes["treatments"] == (layout.SLOT.size, layout.TREATMENT.size)
    assert sizes["meters"] == (layout.SLOT.size, layout.METER_STATE.size)
    assert sizes["settings"] == (layout.SLOT.size, layout.SETTINGS.size)


def test_the_program_that_notes_who_makes_sockets() -> None:
    found = elf.read(OBJECTS["created"])
    assert set(found.programs) == {"created"}
    assert found.layout == layout.CREATED_LAYOUT
    assert found.maps["owners"] == elf.read(DATA).maps["owners"]
    assert found.maps["places"].value_bytes == layout.PLACES.size
    # Helpers that read the kernel's memory are for such programs only.
    assert found.license == "GPL"


def test_another_version_of_the_object_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "LAYOUT", (*layout.LAYOUT[:-1], 8))
    with pytest.raises(MechanismMissing, match="another version"):
        program.EgressProgram.load()


def test_descriptors_are_put_in() -> None:
    code = elf.read(DATA).programs["release"]
    linked = code.linked(dict.fromkeys(code.maps.values(), 77))
    changed = {at // 8 for at in range(len(linked)) if linked[at] != code.instructions[at]}
    assert changed == set(code.maps)


@pytest.mark.parametrize("cut", [0, 3, 64, 500, len(DATA) // 2, len(DATA) - 1])
def test_a_part_of_an_object_is_refused(cut: int) -> None:
    with pytest.raises(elf.BrokenObject):
        elf.read(DATA[:cut])


def test_an_object_of_another_machine_is_refused() -> None:
    other = bytearray(DATA)
    other[18:20] = (62).to_bytes(2, "little")
    with pytest.raises(elf.BrokenObject, match="no little-endian eBPF"):
        elf.read(bytes(other))


def test_the_source_makes_the_same_bytes(tmp_path: Path) -> None:
    clang = shutil.which("clang")
    if clang is None:
        if os.geteuid() == 0:
            pytest.fail("clang is missing: scripts/tools.sh installs it")
        pytest.skip("clang is missing")
    version = subprocess.run([clang, "--version"], capture_output=True, text=True, check=True)
    if f"version {CLANG}" not in version.stdout:
        pytest.skip(f"the object is made by clang {CLANG}x: {version.stdout.splitlines()[0]}")
    made = tmp_path / "made"
    made.mkdir()
    # Elsewhere and under another name, so that neither gets into it.
    tree = tmp_path / "tree"
    sources = [f"src/openqwave/enforcement/bpf/{name}.bpf.c" for name in OBJECTS]
    for path in ("scripts/bpf.sh", *sources):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tree / path)
    subprocess.run(["/bin/sh", tree / "scripts/bpf.sh", made], check=True, timeout=60)
    for name, data in OBJECTS.items():
        assert (made / f"{name}.bpf.o").read_bytes() == data
