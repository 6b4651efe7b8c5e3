"""The numbers of the interface, and the exception that goes with each."""

from __future__ import annotations

import builtins
import pickle

import pytest

import openqwave
from openqwave.model import codes, errors
from openqwave.model.codes import ErrorCode, WinsockCode
from openqwave.model.errors import QosError, Refusal, error_of

# winerror.h, printed by a program made with a Windows compiler.
WIN32 = {
    "ERROR_SUCCESS": 0,
    "ERROR_ACCESS_DENIED": 5,
    "ERROR_INVALID_HANDLE": 6,
    "ERROR_NOT_ENOUGH_MEMORY": 8,
    "ERROR_INVALID_DATA": 13,
    "ERROR_NOT_READY": 21,
    "ERROR_GEN_FAILURE": 31,
    "ERROR_NOT_SUPPORTED": 50,
    "ERROR_NETWORK_BUSY": 54,
    "ERROR_DEV_NOT_EXIST": 55,
    "ERROR_ADAP_HDW_ERR": 57,
    "ERROR_BAD_NET_RESP": 58,
    "ERROR_UNEXP_NET_ERR": 59,
    "ERROR_BAD_NET_NAME": 67,
    "ERROR_INVALID_PARAMETER": 87,
    "ERROR_SEM_TIMEOUT": 121,
    "ERROR_INSUFFICIENT_BUFFER": 122,
    "ERROR_MOD_NOT_FOUND": 126,
    "ERROR_PROC_NOT_FOUND": 127,
    "ERROR_BUSY": 170,
    "ERROR_ALREADY_EXISTS": 183,
    "ERROR_NO_DATA": 232,
    "ERROR_MORE_DATA": 234,
    "ERROR_OPERATION_ABORTED": 995,
    "ERROR_IO_INCOMPLETE": 996,
    "ERROR_IO_PENDING": 997,
    "ERROR_INVALID_FLAGS": 1004,
    "ERROR_SERVICE_ALREADY_RUNNING": 1056,
    "ERROR_SERVICE_DISABLED": 1058,
    "ERROR_SERVICE_NOT_ACTIVE": 1062,
    "ERROR_SERVICE_DEPENDENCY_FAIL": 1068,
    "ERROR_IO_DEVICE": 1117,
    "ERROR_DEVICE_REINITIALIZATION_NEEDED": 1164,
    "ERROR_DEVICE_NOT_CONNECTED": 1167,
    "ERROR_NOT_FOUND": 1168,
    "ERROR_CANCELLED": 1223,
    "ERROR_CONNECTION_REFUSED": 1225,
    "ERROR_NETWORK_UNREACHABLE": 1231,
    "ERROR_HOST_UNREACHABLE": 1232,
    "ERROR_PROTOCOL_UNREACHABLE": 1233,
    "ERROR_PORT_UNREACHABLE": 1234,
    "ERROR_REQUEST_ABORTED": 1235,
    "ERROR_CONNECTION_ABORTED": 1236,
    "ERROR_RETRY": 1237,
    "ERROR_ACCESS_DISABLED_BY_POLICY": 1260,
    "ERROR_REVISION_MISMATCH": 1306,
    "ERROR_NO_SYSTEM_RESOURCES": 1450,
    "ERROR_TIMEOUT": 1460,
    "ERROR_PRODUCT_VERSION": 1638,
    "ERROR_RESOURCE_DISABLED": 4309,
}
WINSOCK = {
    "WSAEWOULDBLOCK": 10035,
    "WSAENOTCONN": 10057,
    "WSAENOTSOCK": 10038,
    "WSAEINVAL": 10022,
    "WSA_IO_PENDING": 997,
    "WSA_OPERATION_ABORTED": 995,
    "WSA_INVALID_HANDLE": 6,
    "WSA_INVALID_PARAMETER": 87,
    "WSA_NOT_ENOUGH_MEMORY": 8,
    "WSA_IO_INCOMPLETE": 996,
}
CONSTANTS = {
    "QOS_NON_ADAPTIVE_FLOW": 2,
    "QOS_QUERYFLOW_FRESH": 1,
    "QOS_OUTGOING_DEFAULT_MINIMUM_BANDWIDTH": 4294967295,
    "QOS_VERSION_MAJOR": 1,
    "QOS_VERSION_MINOR": 0,
    "AF_INET": 2,
    "AF_INET6": 23,
    "IPPROTO_TCP": 6,
    "IPPROTO_UDP": 17,
    "DSCP_MIN": 0,
    "DSCP_MAX": 63,
    "TRUE": 1,
    "FALSE": 0,
}

# Each class, its code, and what an ordinary except clause catches it with.
CLASSES = {
    "GeneralFailure": (31, RuntimeError),
    "AccessDenied": (5, PermissionError),
    "InvalidHandle": (6, ValueError),
    "NotEnoughMemory": (8, MemoryError),
    "NotSupported": (50, NotImplementedError),
    "NetworkBusy": (54, OSError),
    "AdapterFailed": (57, OSError),
    "UnexpectedNetworkError": (59, ConnectionError),
    "BadNetworkName": (67, OSError),
    "InvalidParameter": (87, ValueError),
    "InsufficientBuffer": (122, BufferError),
    "Busy": (170, BlockingIOError),
    "AlreadyExists": (183, FileExistsError),
    "NoData": (232, LookupError),
    "OperationAborted": (995, RuntimeError),
    "OperationPending": (997, BlockingIOError),
    "ServiceUnavailable": (1068, ConnectionError),
    "DeviceError": (1117, OSError),
    "ReinitializationNeeded": (1164, ConnectionResetError),
    "FlowNotFound": (1168, KeyError),
    "ConnectionWasRefused": (1225, ConnectionRefusedError),
    "HostUnreachable": (1232, OSError),
    "RetryLater": (1237, BlockingIOError),
    "DisabledByPolicy": (1260, PermissionError),
    "NoSystemResources": (1450, OSError),
    "TimedOut": (1460, TimeoutError),
    "ResourceDisabled": (4309, OSError),
}


def error_classes() -> dict[str, type[QosError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type)
        and issubclass(value, QosError)
        and value not in (QosError, errors.QosSystemError)
    }


@pytest.mark.parametrize(("name", "number"), WIN32.items(), ids=list(WIN32))
def test_win32_number(name: str, number: int) -> None:
    assert ErrorCode[name] == number


@pytest.mark.parametrize(("name", "number"), WINSOCK.items(), ids=list(WINSOCK))
def test_winsock_number(name: str, number: int) -> None:
    assert WinsockCode[name] == number


@pytest.mark.parametrize(("name", "number"), CONSTANTS.items(), ids=list(CONSTANTS))
def test_constant(name: str, number: int) -> None:
    assert getattr(codes, name) == number


def test_no_number_is_missing_or_added() -> None:
    assert {code.name: code.value for code in ErrorCode} == WIN32
    # By its members, since the forms that share a number are one member to an enumeration.
    assert {name: member.value for name, member in WinsockCode.__members__.items()} == WINSOCK


def test_every_class_is_in_the_table() -> None:
    assert set(error_classes()) == set(CLASSES)


def test_one_class_per_code() -> None:
    numbers = [cls.code for cls in error_classes().values()]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("name", CLASSES)
def test_class_has_its_code_and_builtin_parent(name: str) -> None:
    number, parent = CLASSES[name]
    cls = error_classes()[name]
    assert cls.code == number
    assert issubclass(cls, parent)
    assert parent.__module__ == builtins.__name__
    assert issubclass(cls, QosError)


@pytest.mark.parametrize("name", CLASSES)
def test_a_refusal_becomes_its_class(name: str) -> None:
    code = ErrorCode(CLASSES[name][0])
    error = error_of(Refusal(code, "do this instead"))
    assert type(error) is error_classes()[name]
    assert error.code is code
    assert error.detail == "do this instead"
    assert str(error) == f"{code.name}: do this instead"


@pytest.mark.parametrize("name", CLASSES)
def test_an_error_without_detail_is_named(name: str) -> None:
    cls = error_classes()[name]
    assert str(cls()) == cls.code.name


@pytest.mark.parametrize(
    "name", [name for name, (_, parent) in CLASSES.items() if issubclass(parent, OSError)]
)
def test_a_system_error_has_an_errno(name: str) -> None:
    error = error_classes()[name]("why")
    assert isinstance(error, OSError)
    assert error.errno is not None
    assert error.errno > 0
    assert error.strerror == "why"


@pytest.mark.parametrize("name", CLASSES)
def test_an_error_survives_pickling(name: str) -> None:
    # Executors carry exceptions from process to process.
    error = error_classes()[name]("why")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is type(error)
    assert (again.code, again.detail, str(again)) == (error.code, error.detail, str(error))


def test_a_code_without_a_class_is_a_general_failure() -> None:
    error = error_of(Refusal(ErrorCode.ERROR_MORE_DATA, "more"))
    assert type(error) is errors.GeneralFailure
    assert error.detail == "more"


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_public(name: str) -> None:
    assert getattr(openqwave, name) is error_classes()[name]
