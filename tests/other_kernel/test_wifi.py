"""What marks become in the air: a Wi-Fi access point and a station without radios.

mac80211_hwsim is two or more Wi-Fi cards in software; what one sends, the other hears, and the
interface hwsim0 shows. With WMM each data frame has a user priority, and by that goes into one of
four queues, the access categories, that contend for the air one against the other.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import openqwave as qw
from openqwave.model.flow import Treatment
from tests.other_kernel import devices
from tests.other_kernel.frames import Frames, user_priority
from tests.other_kernel.program import BOTH_WAYS, endpoint

if TYPE_CHECKING:
    from openqwave.lab.topology import Host, Lab
    from tests.other_kernel.program import Program

pytestmark = pytest.mark.kernel

PHYSICAL = Path("/sys/class/ieee80211")
ACCESS_POINT, STATION = "10.8.0.1", "10.8.0.2"
PORT = 5004
TIMEOUT_S = 30.0

CONFIGURATION = """
interface={interface}
driver=nl80211
ssid=openqwave
hw_mode=g
channel=1
ieee80211n=1
wmm_enabled=1
"""

# IEEE 802.11, table of user priorities: which queue each goes into.
CATEGORIES = {1: "BK", 2: "BK", 0: "BE", 3: "BE", 4: "VI", 5: "VI", 6: "VO", 7: "VO"}


@dataclass(frozen=True)
class WiFi:
    """A station that is connected, and all that is in the air.

    Attributes:
        station: Where packets are sent from.
        interface: Through which card.
        air: Frames with their radiotap headers.
    """

    station: Host
    interface: str
    air: Frames

    def sent(
        self, sock: socket.socket, payload: bytes, port: int = PORT
    ) -> tuple[int | None, str | None]:
        """Send a datagram; the user priority and the access category that it had in the air."""
        sock.sendto(payload, (ACCESS_POINT, port))
        frame = self.air.first(lambda frame: payload in frame.data)
        priority = user_priority(frame.data)
        return priority, None if priority is None else CATEGORIES[priority]


@pytest.fixture
def wifi(lab: Lab, tmp_path: Path) -> Iterator[WiFi]:
    """An access point and a station, on hosts of their own."""
    if not (PHYSICAL / "phy0/device").exists() or not Path("/sys/class/net/hwsim0").exists():
        pytest.skip("this kernel has no Wi-Fi cards in software (mac80211_hwsim)")
    devices.needed("hostapd", "iw", "ip")
    point, station = lab.host("access-point"), lab.host("station")
    cards = sorted(os.listdir(PHYSICAL))[:2]
    names = [os.listdir(PHYSICAL / card / "device/net")[0] for card in cards]
    for host, card in zip((point, station), cards, strict=True):
        give(card, host)
    devices.run(point, "ip", "link", "set", names[0], "up")
    devices.run(point, "ip", "addr", "add", f"{ACCESS_POINT}/24", "dev", names[0])
    configuration = tmp_path / "hostapd.conf"
    configuration.write_text(CONFIGURATION.format(interface=names[0]), encoding="ascii")
    hostapd = point.popen(
        ["hostapd", str(configuration)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert hostapd.stdout is not None
        said = []
        for line in hostapd.stdout:
            said.append(line)
            if "AP-ENABLED" in line:
                break
        else:
            pytest.fail(f"hostapd ended: {''.join(said)}")
        devices.run(station, "ip", "link", "set", names[1], "up")
        devices.run(station, "ip", "addr", "add", f"{STATION}/24", "dev", names[1])
        devices.run(station, "iw", "dev", names[1], "connect", "openqwave")
        await_connection(station, names[1])
        # The air is seen from the network that the cards came from.
        up = ["ip", "link", "set", "hwsim0", "up"]
        subprocess.run(up, check=True)
        with point.enter():
            # Or the access point would answer that the port is closed.
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with receiver, Frames("hwsim0") as air:
            receiver.bind((ACCESS_POINT, PORT))
            yield WiFi(station, names[1], air)
    finally:
        hostapd.terminate()
        hostapd.communicate(timeout=TIMEOUT_S)
        for host, card in zip((point, station), cards, strict=True):
            take_back(card, host)


def give(card: str, host: Host) -> None:
    """Move a card into a host's network, which takes a process there: iw knows no descriptors."""
    anchor = host.popen(["sleep", "infinity"])
    try:
        argv = ["iw", "phy", card, "set", "netns", str(anchor.pid)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    finally:
        anchor.kill()
        anchor.wait()


def take_back(card: str, host: Host) -> None:
    """Move it into this process's network: older kernels lose it with the host's."""
    # By number: a name would be looked up in /sys, which shows the network that it was mounted in.
    number = card.removeprefix("phy")
    devices.run(host, "iw", f"phy#{number}", "set", "netns", str(os.getpid()))


def await_connection(station: Host, interface: str) -> None:
    """Wait until the station may send: associated, and the access point's address known."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while "Connected" not in devices.run(station, "iw", "dev", interface, "link"):
        assert time.monotonic() < deadline_s, "the station does not connect"
        time.sleep(0.1)
    devices.run(station, "ping", "-c", "1", "-W", "10", ACCESS_POINT)


@pytest.fixture
def sock(wifi: WiFi) -> Iterator[socket.socket]:
    """A socket of the station's."""
    with wifi.station.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        yield made


# In the air a traffic type is what its code point says, whose upper three bits the kernel takes
# for the user priority (cfg80211_classify8021d); the queue priority changes nothing there.
EXPECTED = {
    qw.TrafficType.BEST_EFFORT: (0, "BE"),
    qw.TrafficType.BACKGROUND: (1, "BK"),
    qw.TrafficType.EXCELLENT_EFFORT: (5, "VI"),
    qw.TrafficType.AUDIO_VIDEO: (5, "VI"),
    qw.TrafficType.VOICE: (7, "VO"),
    qw.TrafficType.CONTROL: (7, "VO"),
}


def test_a_flow_has_its_access_category(wifi: WiFi, sock: socket.socket) -> None:
    sock.connect((ACCESS_POINT, PORT))
    found = {}
    for traffic_type in EXPECTED:
        with wifi.station.enter(), qw.open(embedded=True) as qos:
            qos.add_socket(sock, traffic_type=traffic_type, adaptive=False)
            found[traffic_type] = wifi.sent(sock, f"as {traffic_type.name}".encode())
    assert found == EXPECTED
    assert wifi.sent(sock, b"in no flow") == (0, "BE")


@BOTH_WAYS
def test_destinations_of_one_socket_have_theirs(
    wifi: WiFi, sock: socket.socket, program: Program, way: str
) -> None:
    program.attach(wifi.station, wifi.interface, way)
    voice, video = Treatment(dscp=56, queue_priority=6), Treatment(dscp=40, queue_priority=6)
    program.flow(sock, voice, endpoint(ACCESS_POINT, PORT))
    program.flow(sock, video, endpoint(ACCESS_POINT, PORT + 1))
    assert wifi.sent(sock, b"voice") == (7, "VO")
    assert wifi.sent(sock, b"video", PORT + 1) == (5, "VI")
    assert wifi.sent(sock, b"neither", PORT + 2) == (0, "BE")


def test_excess_falls_behind(wifi: WiFi, sock: socket.socket, program: Program) -> None:
    program.attach(wifi.station, wifi.interface, "clsact")
    # At a kilobit a second one packet takes longer than the burst that a flow may begin with.
    metered = Treatment(dscp=40, queue_priority=6, rate_bps=1_000, excess_is_remarked=True)
    program.flow(sock, metered)
    assert wifi.sent(sock, b"conforms") == (5, "VI")
    assert wifi.sent(sock, b"exceeds") == (0, "BE")
