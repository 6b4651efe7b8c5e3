"""bpf(2): maps, programs and links, without a library.

The kernel takes one union of structures for all its commands (linux/bpf.h); here each is packed by
hand. What is asked of a kernel that is older than a field is refused with E2BIG or EINVAL.

Descriptors are plain numbers; whoever makes one closes it. They are closed on exec by the kernel.

Every refusal is an OSError whose text says what was being done. Two are worth a word more:
EPERM is a missing right (`rights` says which), and ENOSYS a kernel without BPF.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

from openqwave.enforcement.bpf.rights import missing_right

# bpf(2) by architecture; others have the number of the generic table.
_NUMBER: Final = {"x86_64": 321}.get(platform.machine(), 280)

# enum bpf_cmd
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _PROG_LOAD = 0, 1, 2, 3, 4, 5
_TEST_RUN, _INFO, _LOOKUP_BATCH, _UPDATE_BATCH, _DELETE_BATCH, _LINK_CREATE = (
    10,
    15,
    24,
    26,
    27,
    28,
)

_PROG_QUERY, _BTF_LOAD = 16, 18

# enum bpf_prog_type
SCHED_CLS: Final = 3
CGROUP_SOCK: Final = 9
# enum bpf_attach_type
SOCK_CREATE: Final = 2
SOCK_RELEASE: Final = 34
TCX_EGRESS: Final = 47
# enum bpf_map_type
SK_STORAGE: Final = 24
RING: Final = 27
# Flags of a map of that kind: BPF_F_NO_PREALLOC, which it asks for, and BPF_F_CLONE: what a
# listener has is copied to what it accepts.
_STORAGE_FLAGS: Final = 1 | 1 << 9

# Flags of a link by TCX: ahead of all programs that are there (BPF_F_BEFORE, relative to none).
FIRST: Final = 1 << 3

# Flags of an update: a new entry or an old one, a new one only, an old one only.
ANY, NO_EXIST, EXIST = 0, 1, 2
# TEST_RUN: the packet has a sum of all its bytes, which has to be right afterwards.
TEST_CHECKSUM: Final = 1 << 2

# The kernel lets no more than this many programs stand at one place.
_MOST_ATTACHED: Final = 64
# What the verifier says of a program of ours at most, cut by the kernel if it is more.
_LOG_BYTES: Final = 1 << 20
# Of that, the last lines say what was wrong.
_LOG_LINES: Final = 8
# The kernel's names are 15 bytes and an end.
_NAME_BYTES: Final = 15

_libc: Final = ctypes.CDLL(None, use_errno=True)
_syscall: Final = _libc.syscall
_syscall.restype = ctypes.c_long


def _address(buffer: object) -> int:
    return ctypes.addressof(buffer)  # type: ignore[arg-type]  # any ctypes buffer


def _bpf(command: int, attributes: bytearray | bytes, doing: str) -> tuple[int, bytes]:
    """One call; its result, and the attributes as the kernel left them."""
    buffer = ctypes.create_string_buffer(bytes(attributes), len(attributes))
    result = _syscall(_NUMBER, command, buffer, len(attributes))
    if result < 0:
        raise _error(doing)
    return int(result), buffer.raw


def _error(doing: str) -> OSError:
    """What the kernel refused just now."""
    code = ctypes.get_errno()
    return OSError(code, f"{doing}: {_words(code)}")


def _words(code: int) -> str:
    if code == errno.ENOSYS:
        return "this kernel has no BPF (CONFIG_BPF_SYSCALL)"
    if code == errno.EPERM and (missing := missing_right()):
        return missing
    return os.strerror(code)


def _name(text: str) -> bytes:
    return text.encode("ascii")[:_NAME_BYTES]


# -- maps ---------------------------------------------------------------------------


def map_create(kind: int, key_bytes: int, value_bytes: int, entries: int, name: str) -> int:
    """Make a map; its descriptor.

    Raises:
        OSError: No right (EPERM), no memory (ENOMEM), or no such kind of map (EINVAL).
    """
    attributes = struct.pack(
        "=IIIIIII16s", kind, key_bytes, value_bytes, entries, 0, 0, 0, _name(name)
    )
    return _bpf(_MAP_CREATE, attributes, f"making the map {name!r}")[0]


def storage_create(value_bytes: int, types: int, name: str) -> int:
    """Make a map of what is kept with sockets; its descriptor. Its keys are descriptors of sockets.

    Args:
        value_bytes: Of what is kept.
        types: A descriptor of a description in which type 1 is a key and type 3 a value.
        name: For people.
    """
    attributes = struct.pack(
        "=IIIIIII16sIIII",
        *(SK_STORAGE, 4, value_bytes, 0, _STORAGE_FLAGS, 0, 0, _name(name), 0, types, 1, 3),
    )
    return _bpf(_MAP_CREATE, attributes, f"making the map {name!r}")[0]


def btf_load(description: bytes) -> int:
    """Have the kernel read a description of types; its descriptor.

    Raises:
        OSError: No right (EPERM), or it is not in order (EINVAL).
    """
    data = ctypes.create_string_buffer(description, len(description))
    attributes = struct.pack("=QQIII4x", _address(data), 0, len(description), 0, 0)
    return _bpf(_BTF_LOAD, attributes, "loading a description of types")[0]


# union bpf_attr's single entry: the map, where its key and its value are, flags.
_ENTRY: Final = struct.Struct("=I4xQQQ")


def _on_entry(command: int, fd: int, key: bytes, entry: bytes, flags: int, doing: str) -> bytes:
    """Do something with one entry, of which a deletion has no value; its value then."""
    # All of it in one buffer: to make one takes longer than a call of the kernel.
    value_at = _ENTRY.size + len(key)
    buffer = ctypes.create_string_buffer(value_at + len(entry))
    address = ctypes.addressof(buffer)
    where = address + _ENTRY.size, address + value_at if entry else 0
    buffer.raw = _ENTRY.pack(fd, *where, flags) + key + entry
    if _syscall(_NUMBER, command, buffer, _ENTRY.size) < 0:
        raise _error(doing)
    return buffer.raw[value_at:]


def lookup(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """One entry; None if there is none."""
    try:
        return _on_entry(_LOOKUP, fd, key, bytes(value_bytes), 0, "reading an entry")
    except FileNotFoundError:
        return None


def update(fd: int, key: bytes, entry: bytes, flags: int = ANY) -> None:
    """Write one entry.

    Raises:
        OSError: The map is full (E2BIG), or memory is (ENOMEM).
    """
    _on_entry(_UPDATE, fd, key, entry, flags, "writing an entry")


def delete(fd: int, key: bytes) -> bool:
    """Take one entry away; was there one?"""
    try:
        _on_entry(_DELETE, fd, key, b"", 0, "deleting an entry")
    except FileNotFoundError:
        return False
    return True


# union bpf_attr's batch: where from, where to go on, keys, values, count, map, two flags.
_BATCH: Final = struct.Struct("=QQQQIIQQ")


def update_batch(fd: int, keys: bytes, entries: bytes, count: int) -> int:
    """Write many entries; how many of them, from the first on, are written.

    Raises:
        OSError: None was written. Where some were, the next call says why the next was not.
    """
    return _write_batch(_UPDATE_BATCH, fd, keys, entries, count, "writing entries")


def delete_batch(fd: int, keys: bytes, count: int) -> int:
    """Take many entries away; how many of them, from the first on, are gone.

    Raises:
        OSError: The first is not there (ENOENT).
    """
    return _write_batch(_DELETE_BATCH, fd, keys, b"\0", count, "deleting entries")


def _write_batch(command: int, fd: int, keys: bytes, entries: bytes, count: int, doing: str) -> int:
    from_keys = ctypes.create_string_buffer(keys, len(keys))
    values = ctypes.create_string_buffer(entries, len(entries))
    where = (_address(from_keys), _address(values))
    attributes = ctypes.create_string_buffer(_BATCH.pack(0, 0, *where, count, fd, 0, 0))
    if _syscall(_NUMBER, command, attributes, _BATCH.size) == 0:
        return count
    code = ctypes.get_errno()
    done: int = _BATCH.unpack_from(attributes)[4]
    if not 0 < done < count:
        raise OSError(code, f"{doing}: {_words(code)}")
    return done


def lookup_batch(
    fd: int, start: bytes | None, key_bytes: int, value_bytes: int, count: int
) -> tuple[bytes, bytes, int, bytes | None]:
    """Read many entries.

    Args:
        fd: The map.
        start: Where an earlier call said to go on; None for the beginning. Of an array, the key
            before the first that is wanted.
        key_bytes: Of one key.
        value_bytes: Of one value.
        count: How many at most. Of a hash, more than its fullest bucket has.

    Returns:
        Keys, values, how many, and where to go on; None for the end.
    """
    keys = ctypes.create_string_buffer(count * key_bytes)
    values = ctypes.create_string_buffer(count * value_bytes)
    # A hash goes on at a number of four bytes, an array at a key.
    begin = None if start is None else ctypes.create_string_buffer(start, len(start))
    onward = ctypes.create_string_buffer(max(key_bytes, 4))
    attributes = ctypes.create_string_buffer(
        _BATCH.pack(
            0 if begin is None else _address(begin),
            _address(onward),
            _address(keys),
            _address(values),
            count,
            fd,
            0,
            0,
        )
    )
    result = _syscall(_NUMBER, _LOOKUP_BATCH, attributes, _BATCH.size)
    code = ctypes.get_errno() if result < 0 else 0
    # ENOENT: that was the last.
    if code not in (0, errno.ENOENT):
        raise OSError(code, f"reading entries: {_words(code)}")
    found: int = _BATCH.unpack_from(attributes)[4]
    return (
        keys.raw[: found * key_bytes],
        values.raw[: found * value_bytes],
        found,
        None if code else onward.raw,
    )


# -- programs and links ---------------------------------------------------------------


def prog_load(kind: int, code: bytes, licence: str, name: str, attach_type: int = 0) -> int:
    """Have a program verified; its descriptor.

    Raises:
        OSError: No right (EPERM), or the verifier refuses it (EACCES, EINVAL), with its last words.
    """
    instructions = ctypes.create_string_buffer(code, len(code))
    text = ctypes.create_string_buffer(licence.encode("ascii"))

    def attributes(level: int, size: int, log: int) -> bytes:
        return struct.pack(
            "=IIQQIIQII16sII",
            kind,
            len(code) // 8,
            _address(instructions),
            _address(text),
            level,
            size,
            log,
            0,
            0,
            _name(name),
            0,
            attach_type,
        )

    doing = f"loading the program {name!r}"
    try:
        return _bpf(_PROG_LOAD, attributes(0, 0, 0), doing)[0]
    except OSError as error:
        if error.errno == errno.EPERM and missing_right():
            raise
        first = error
    # Once more for the reason; a log costs time and is read only now.
    log = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        return _bpf(_PROG_LOAD, attributes(1, _LOG_BYTES, _address(log)), doing)[0]
    except OSError:
        lines = log.value.decode(errors="replace").strip().splitlines()[-_LOG_LINES:]
        why = f"; the verifier says: {' | '.join(lines)}" if lines else ""
        raise OSError(first.errno, f"{first.strerror}{why}") from None


def link_create(program: int, target: int, attach_type: int, flags: int = 0) -> int:
    """Attach a program; a descriptor that detaches it when it is closed.

    Args:
        program: Its descriptor.
        target: An interface's index for TCX, a descriptor of its directory for a control group.
        attach_type: Where.
        flags: `FIRST` for TCX, or none.

    Raises:
        OSError: No right (EPERM), no such interface (ENODEV), or the kernel has no such link
            (EINVAL).
    """
    # TCX goes on with an expected revision, which 0 leaves open.
    attributes = struct.pack("=IIII32x", program, target, attach_type, flags)
    return _bpf(_LINK_CREATE, attributes, "attaching the program")[0]


def query(target: int, attach_type: int) -> list[int]:
    """The kernel's numbers of the programs that are attached somewhere, in their order.

    Args:
        target: As in `link_create`.
        attach_type: Where.

    Raises:
        OSError: No right (EPERM), no such interface (ENODEV), or the kernel knows no such place
            (EINVAL).
    """
    ids = ctypes.create_string_buffer(4 * _MOST_ATTACHED)
    attributes = struct.pack(
        "=IIIIQII32x", target, attach_type, 0, 0, _address(ids), _MOST_ATTACHED, 0
    )
    _, left = _bpf(_PROG_QUERY, attributes, "asking which programs are attached")
    count: int = struct.unpack_from("=I", left, 24)[0]
    return list(struct.unpack_from(f"={count}I", ids.raw))


def info(fd: int, size: int) -> bytes:
    """What the kernel says of a map, a program or a link: the beginning of its structure."""
    out = ctypes.create_string_buffer(size)
    attributes = struct.pack("=IIQ", fd, size, _address(out))
    _bpf(_INFO, attributes, "asking what a descriptor is")
    return out.raw


def run_program(
    program: int, packet: bytes, context: bytes = b"", flags: int = 0, repeat: int = 1
) -> tuple[int, bytes, bytes, int]:
    """Run a program on a packet that goes nowhere.

    Returns:
        What the program returned, the packet and the context afterwards, and how many nanoseconds
        one run took.
    """
    data = ctypes.create_string_buffer(packet, len(packet))
    # A tag adds four bytes.
    out = ctypes.create_string_buffer(len(packet) + 64)
    given = ctypes.create_string_buffer(context, max(len(context), 1))
    after = ctypes.create_string_buffer(max(len(context), 1))
    has_context = 1 if context else 0
    attributes = struct.pack(
        "=IIIIQQIIIIQQIII4x",
        program,
        0,
        len(packet),
        len(out),
        _address(data),
        _address(out),
        repeat,
        0,
        len(context),
        len(context),
        _address(given) * has_context,
        _address(after) * has_context,
        flags,
        0,
        0,
    )
    _, left = _bpf(_TEST_RUN, attributes, "running the program")
    returned, _, size, _, _, _, duration_ns = struct.unpack_from("=iIIQQII", left, 4)
    return returned, out.raw[:size], after.raw[: len(context)], duration_ns
