"""The contract's sentences that rows cite, and each function's list of errors."""

from __future__ import annotations

import json
from pathlib import Path

FACTS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "qos2_abi.json").read_text(encoding="utf-8")
)
NAMES = {value: name for name, value in FACTS["error_codes"].items()}

# What the contract adds to the lists: "A socket that is not in the flow:
# ERROR_INVALID_PARAMETER [decision]", and "Reserved flags must be 0, else
# ERROR_INVALID_PARAMETER".
BEYOND_THE_LIST = {"QOSRemoveSocketFromFlow": {"ERROR_INVALID_PARAMETER"}}


def errors_of(function: str) -> set[str]:
    """All errors that a function may answer with."""
    return {*FACTS["errors_by_function"][function], *BEYOND_THE_LIST.get(function, ())}


# Sentences of the contract.
UNKNOWN_HANDLE = "Unknown handle: ERROR_INVALID_HANDLE"
CLOSE_HANDLE = "only QOSCloseHandle answers ERROR_INVALID_PARAMETER"
FLAGS = "Reserved flags must be 0, else ERROR_INVALID_PARAMETER"
ORDER = (
    "Arguments are checked in this order [decision]: handle, pointers and sizes, flags, "
    "enumerations, flow id, rights, state"
)
VERSION = "Version must be {1,0} and both pointers non-null, else ERROR_INVALID_PARAMETER"
QUOTA = "Quota per client exceeded: ERROR_NO_SYSTEM_RESOURCES"
DOCUMENTED = "documented: in the function's own list of errors"
HOST = "Address of a bad family or malformed, unspecified, or multicast: ERROR_INVALID_PARAMETER"
NO_SINK = "Off-link while policy forbids experiments there: ERROR_NOT_SUPPORTED"
UNTRACKED = (
    "Stopping a client that this handle does not track, and no closed handle left warm: "
    "ERROR_INVALID_PARAMETER [decision]"
)
CALL_TWICE = "too small a buffer gives ERROR_INSUFFICIENT_BUFFER and the needed size"
ADMINISTRATOR = "QOSEnumerateFlows | administrator, else ERROR_ACCESS_DENIED"
JOIN = (
    "it must exist on this handle and be non-adaptive, and Flags must hold "
    "QOS_NON_ADAPTIVE_FLOW, else ERROR_INVALID_PARAMETER"
)
PROTOCOLS = "TCP and UDP over IPv4 and IPv6. Anything else: ERROR_NOT_SUPPORTED"
NO_SOCKET = "Not a socket: ERROR_INVALID_PARAMETER"
DESTINATION = "needed when the socket is not connected; must name host and port"
PEER = "When connected it may be null, and if given must equal the peer"
MAPPED = (
    "An IPv4-mapped IPv6 address, an IPv4 address on an IPv6 socket, an unspecified address or "
    "port 0: ERROR_INVALID_PARAMETER"
)
NO_ROUTE = "No route: ERROR_HOST_UNREACHABLE"
UNKNOWN_FLOW = "Unknown flow, flow id 0: ERROR_NOT_FOUND"
FOREIGN_FLOW = (
    "change, notify on, remove a flow of another handle | never: ERROR_NOT_FOUND [decision]"
)
NOT_MEMBER = "A socket that is not in the flow: ERROR_INVALID_PARAMETER [decision]"
SET_SIZE = (
    "Size must be exactly the size of the operation's data, Buffer non-null, else "
    "ERROR_INVALID_PARAMETER"
)
DSCP_LIMIT = "DWORD 0 to 63 | ... above 63: ERROR_INVALID_PARAMETER"
DSCP_ADAPTIVE = "exact mark on a non-adaptive flow (adaptive: ERROR_NOT_SUPPORTED [decision])"
DSCP_RIGHT = (
    "administrator, or a member of the configured operators' group, else ERROR_ACCESS_DENIED "
    "and the flow keeps its present marks"
)
NO_MECHANISM = "for lack of the mechanism: ERROR_NOT_SUPPORTED"
FORBIDDEN = "Path forbidden by policy: ERROR_ACCESS_DISABLED_BY_POLICY"
HOST_GONE = "Host gone: ERROR_HOST_UNREACHABLE"
BROKEN = "the sink's connection broke: ERROR_UNEXP_NET_ERR"
ADAPTER = "Adapter failing or removed: ERROR_ADAP_HDW_ERR"
NO_NEIGHBOUR = "On-link but address resolution fails: ERROR_BAD_NET_NAME"
NO_ANSWER = "No sink answers: ERROR_HOST_UNREACHABLE from the call when it is known at once"
BUSY = "Refused: ERROR_NETWORK_BUSY"
BUSY_INCREASE = "a refused increase leaves the old contract in force [decision]"
NOT_ENOUGH = (
    "Not enough known yet: a synchronous call waits for the running experiments up to a limit "
    "[decision: 2 s] and then answers ERROR_RETRY"
)
NO_RATE = "the contract's rate, layer 3; none set: ERROR_NO_DATA [decision]"
UNMEASURABLE = "Fundamentals on a non-adaptive flow or an unmeasurable path: ERROR_NOT_SUPPORTED"
NOTHING_KNOWN = "Nothing known yet: ERROR_NO_DATA"
FRESH = "only data measured after the call; not to be had in time: ERROR_RETRY"
FRESH_TIMEOUT = "experiments timed out: ERROR_TIMEOUT"
NOT_ENOUGH_YET = "Experiments under way but not enough: ERROR_RETRY"
AGE = "Cached data has an age limit set by policy; older is as if unknown"
FRESH_ONLY = "QOS_QUERYFLOW_FRESH (fundamentals only)"
NO_BUFFER = "QOSNotifyCongested, QOSNotifyUncongested | Size and Buffer null"
NOTIFY_SIZE = "buffer below 8 bytes: ERROR_INSUFFICIENT_BUFFER"
NOTIFY_RATE = "Available with a rate at or below the present contract: ERROR_INVALID_PARAMETER"
NOTIFY_PATH = "Non-adaptive or unmeasurable: ERROR_NOT_SUPPORTED"
ONE_SHOT = "A second pending request of the same kind on the flow: ERROR_ALREADY_EXISTS"
PENDING = (
    "With OVERLAPPED the call returns TRUE when it finished at once, or FALSE with ERROR_IO_PENDING"
)
CANCEL = "Null or not a pending operation of this handle: ERROR_INVALID_PARAMETER"
LOST = (
    "the first call on an old handle answers ERROR_DEVICE_REINITIALIZATION_NEEDED, and so does "
    "every later one but QOSCloseHandle, which succeeds"
)
