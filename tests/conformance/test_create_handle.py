"""The six assertions of wine's own test of QOSCreateHandle, which hold on Windows."""

from __future__ import annotations

from ctypes import byref
from typing import Any

import pytest

from openqwave.qos2 import (
    ERROR_INVALID_PARAMETER,
    HANDLE,
    QOS_VERSION,
    GetLastError,
    QOSCloseHandle,
    QOSCreateHandle,
    SetLastError,
)

SENTINEL = 0xDEADBEEF


@pytest.mark.parametrize(
    ("version", "has_target"),
    [
        pytest.param(None, False, id="both-null"),
        pytest.param((1, 0), False, id="handle-null"),
        pytest.param((0, 0), True, id="version-0.0"),
        pytest.param((1, 5), True, id="version-1.5"),
        pytest.param((2, 0), True, id="version-2.0"),
    ],
)
def test_refused(version: tuple[int, int] | None, has_target: bool) -> None:
    handle: Any = HANDLE(SENTINEL)
    SetLastError(SENTINEL)
    result = QOSCreateHandle(
        None if version is None else byref(QOS_VERSION(*version)),
        byref(handle) if has_target else None,
    )
    assert (result, GetLastError(), handle.value) == (0, ERROR_INVALID_PARAMETER, SENTINEL)


def test_version_1_0_is_granted() -> None:
    handle: Any = HANDLE()
    SetLastError(SENTINEL)
    assert QOSCreateHandle(byref(QOS_VERSION(1, 0)), byref(handle)) == 1
    assert handle.value
    # Not among the six: "A success leaves the last error untouched."
    assert GetLastError() == SENTINEL
    assert QOSCloseHandle(handle) == 1
    assert GetLastError() == SENTINEL
