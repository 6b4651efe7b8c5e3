"""Numbers of the real service, as collectors get them, and whoever comes to disturb."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain

import openqwave as qw
from openqwave.lab.shape import Bottleneck
from openqwave.service.metrics.catalogue import METRICS, Kind
from openqwave.service.metrics.exporter import CONNECTIONS, PATIENCE_S
from tests.kernel.qwave import Sink
from tests.kernel.service_stage import NOBODY, TIMEOUT_S, Actor, Qwaved, reaching, running

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from openqwave.lab.topology import Lab

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "packaging/grafana/openqwave.json"
MBPS = 1_000_000
OPEN_TYPE = "application/openmetrics-text; version=1.0.0"


def config(listen: str, more: str = "") -> str:
    return f'[sink]\nenabled = false\n[metrics]\nlisten = "{listen}"\n{more}'


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Collector:
    """Asks a service for its numbers."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str = "/metrics", method: str = "GET", **fields: str) -> tuple[int, str]:
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        with contextlib.closing(asked):
            asked.request(method, path, headers=fields)
            answer = asked.getresponse()
            return answer.status, answer.read().decode()

    def families(self) -> dict[str, Metric]:
        status, text = self.ask()
        assert status == 200, text
        return {family.name: family for family in read_plain(text)}

    def samples(self) -> dict[tuple[str, ...], float]:
        """Numbers by name and labels' values."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in self.families().values()
            for sample in family.samples
        }

    def wait_for(self, *key: str, more_than: float) -> dict[tuple[str, ...], float]:
        """All numbers, as soon as one is large enough; they are read once a second."""
        until_s = time.monotonic() + TIMEOUT_S
        while True:
            samples = self.samples()
            if samples.get(key, 0) > more_than:
                return samples
            assert time.monotonic() < until_s, (key, samples.get(key))
            time.sleep(0.1)

    def fresh(self) -> dict[tuple[str, ...], float]:
        """All numbers, read from now on."""
        before = self.samples()["process_cpu_seconds_total",]
        return self.wait_for("process_cpu_seconds_total", more_than=before)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def service(port: int) -> Iterator[Qwaved]:
    with running(config=config(f"127.0.0.1:{port}")) as found:
        yield found


@pytest.fixture
def collector(service: Qwaved, port: int) -> Collector:
    del service
    return Collector(port)


@contextlib.contextmanager
def datagrams() -> Iterator[socket.socket]:
    """A socket whose datagrams arrive."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near,
    ):
        far.bind(("127.0.0.1", 0))
        near.connect(far.getsockname())
        yield near


# -- numbers ----------------------------------------------------------------------------


def test_what_programs_do_is_counted(service: Qwaved, collector: Collector) -> None:
    before = collector.fresh()
    with service.open() as qos, datagrams() as sock:
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        for _ in range(3):
            flow.set_traffic_type(qw.TrafficType.VOICE)
        with pytest.raises(qw.NotSupported):
            flow.fundamentals()
        now = collector.fresh()

        def more(*key: str) -> float:
            return now[key] - before.get(key, 0)

        assert more("qwave_requests_total", "add_socket", "done") == 1
        assert more("qwave_requests_total", "set_traffic_type", "done") == 3
        assert more("qwave_requests_total", "query", "not_supported") == 1
        assert more("qwave_request_duration_seconds_count", "set_traffic_type") == 3
        assert more("qwave_request_duration_seconds_bucket", "set_traffic_type", "+Inf") == 3
        assert 0 < more("qwave_request_duration_seconds_sum", "set_traffic_type") < TIMEOUT_S
        assert more("qwave_flows", "voice", "none") == 1
        assert more("qwave_handles") == more("qwave_connections") == 1
        assert more("qwave_enforcement_changes_total") >= 1
    assert collector.fresh()["qwave_flows", "voice", "none"] == 0


def test_what_was_sent_is_counted_to_the_byte_and_outlives_its_flows(
    service: Qwaved, collector: Collector
) -> None:
    key = ("qwave_sent_packets_total", "conformant")
    before = collector.fresh()
    if key not in before:
        pytest.skip("no program can be had in this kernel")
    rounds, packets, payload = 3, 20, 100
    for _ in range(rounds):
        with service.open() as qos, datagrams() as sock:
            qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
            for _ in range(packets):
                sock.send(bytes(payload))
    now = collector.fresh()
    assert now[key] - before[key] == rounds * packets
    sent = ("qwave_sent_bytes_total", "conformant")
    assert now[sent] - before[sent] == rounds * packets * (payload + 28)


def test_incidents_are_counted(service: Qwaved, collector: Collector) -> None:
    key = ("qwave_incidents_total", "protocol_violation")
    before = collector.fresh().get(key, 0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(service.socket)
        peer.send(b"garbage")
        collector.wait_for(*key, more_than=before)


def test_the_process_tells_of_itself(service: Qwaved, collector: Collector) -> None:
    samples = collector.fresh()
    assert service.process is not None
    resident = samples["process_resident_memory_bytes",]
    assert 0.5 < resident / service.resident_bytes() < 2
    assert abs(samples["process_open_fds",] - service.descriptors()) < CONNECTIONS
    assert 0 < time.time() - samples["process_start_time_seconds",] < 3_600
    assert samples["qwave_build_info", "0.1.0.dev0"] == 1


def ask_what_cannot_be(state: dict[str, object]) -> None:
    """Ask for a rate of UDP where no queue holds one; in an actor."""
    state["qos"] = qos = qw.open(service=True)
    state["sock"] = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", 9))
    flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    with pytest.raises(qw.NotSupported):
        flow.set_rate(MBPS)


def test_what_enforcement_cannot_do_is_counted(lab: Lab) -> None:
    port = free_port()
    near = lab.host("near")
    options = '[enforcement]\nbackend = "socket-options"\n'
    with (
        running(near, config(f"127.0.0.1:{port}") + options) as service,
        Actor(host=near, service=service.socket) as actor,
        near.enter(),
    ):
        actor.call(ask_what_cannot_be)
        samples = Collector(port).samples()
        assert samples["qwave_enforcement_info", "socket_options"] == 1
        assert samples["qwave_enforcement_errors_total", "not_supported"] == 1
        assert samples["qwave_enforcement_changes_total",] == 1
        assert samples["qwave_requests_total", "set_rate", "not_supported"] == 1
        assert samples["qwave_enforcement_reconcile_errors_total",] == 0
        # What nobody counts is not said to be none.
        assert ("qwave_sent_bytes_total", "conformant") not in samples


def begin(state: dict[str, object], host: str) -> None:
    """An adaptive flow that is told of its path; in an actor."""
    state["qos"] = qos = qw.open(service=True)
    state["sock"] = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((host, 5_004))
    state["flow"] = flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE)
    flow.wait_available(MBPS, TIMEOUT_S)
    flow.set_rate(2 * MBPS, self_paced=True)
    with contextlib.suppress(qw.NetworkBusy):
        flow.set_rate(900 * MBPS, self_paced=True)


def test_a_measured_path_and_what_is_admitted_there(lab: Lab) -> None:
    near, far = lab.host("near"), lab.host("far")
    shape = Bottleneck(20 * MBPS, 20 * MBPS // 8 // 10)
    lab.link(near, far, a_to_b=shape, b_to_a=shape)
    port = free_port()
    with (
        Sink(far),
        running(near, config(f"127.0.0.1:{port}")) as service,
        Actor(NOBODY, host=near, service=service.socket) as actor,
        near.enter(),
    ):
        collector = Collector(port)
        actor.call(begin, far.ipv4)
        samples = collector.fresh()
        name = next(key[2] for key in samples if key[:2] == ("qwave_path_rtt_seconds", far.ipv4))
        labels = (far.ipv4, name)
        assert 0.5 < samples["qwave_path_capacity_bytes_per_second", *labels] * 8 / 20e6 < 2
        assert samples["qwave_path_available_bytes_per_second", *labels] * 8 < 40e6
        assert samples["qwave_path_held_bytes_per_second", *labels] * 8 == 2 * MBPS
        assert 0 < samples["qwave_path_rtt_seconds", *labels] < 1
        assert 0 <= samples["qwave_path_estimate_age_seconds", *labels] < 30
        assert samples["qwave_path_congested", *labels] in (0, 1)
        assert samples["qwave_paths",] == 1
        assert samples["qwave_paths_left_out",] == 0
        assert samples["qwave_probe_bytes_total",] > 10_000
        assert samples["qwave_requests_total", "set_rate", "done"] == 1
        assert samples["qwave_requests_total", "set_rate", "network_busy"] == 1
        assert samples["qwave_requests_total", "notify", "done"] == 1
        states = {key[2] for key, count in samples.items() if key[0] == "qwave_flows" and count}
        assert states in ({"measured"}, {"congested"})
        # No single numbers, and the sums are the same.
        text = service.config.read_text()
        service.config.write_text(text + "paths = 0\n")
        service.signal(signal.SIGHUP)
        service.wait_for(b"READY=1")
        samples = collector.samples()
        assert not [key for key in samples if far.ipv4 in key]
        assert (samples["qwave_paths",], samples["qwave_paths_left_out",]) == (1, 1)


# -- form -------------------------------------------------------------------------------

# What `promtool check metrics` refuses: client_golang's promlint.
_UNITS = {
    "bits", "minutes", "hours", "days", "weeks", "milliseconds", "microseconds", "nanoseconds",
    "kilobytes", "megabytes", "percent", "s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "m",
    "h", "d",
}  # fmt: skip
_KINDS = {"gauge", "counter", "histogram", "summary"}


def complaints(family: Metric) -> Iterator[str]:
    """What promtool would say of a family."""
    name, words = family.name, set(family.name.split("_"))
    if not family.documentation.strip():
        yield "no help"
    if ":" in name or re.search("[a-z][A-Z]", name):
        yield "a name of another form"
    if words & _KINDS:
        yield "the kind is in the name"
    if words & _UNITS:
        yield "no base unit"
    for sample in family.samples:
        grows = sample.name.endswith("_total")
        if grows != (family.type == "counter"):
            yield "_total and counters go together"
        if family.type != "histogram" and sample.name.endswith(("_count", "_sum", "_bucket")):
            yield "an ending of histograms"
        if any(re.search("[a-z][A-Z]|^__|^(le|quantile)$", each) for each in sample.labels) and (
            family.type != "histogram"
        ):
            yield "a label of another form"


def test_promtool_would_not_complain(service: Qwaved, collector: Collector) -> None:
    with service.open():
        families = collector.families()
    assert {name: list(complaints(family)) for name, family in families.items()} == {
        name: [] for name in families
    }


def test_the_rules_tell_what_is_wrong() -> None:
    def wrong(line: str, kind: str, help_: str = "x") -> set[str]:
        name = line.split("{")[0].split()[0]
        text = f"# HELP {name} {help_}\n# TYPE {name} {kind}\n{line}\n"
        return {each for family in read_plain(text) for each in complaints(family)}

    assert wrong("qwave_flows 1", "gauge") == set()
    assert wrong("qwave_flows_total 1", "gauge") == {"_total and counters go together"}
    assert wrong("qwaveFlows 1", "gauge") == {"a name of another form"}
    assert wrong("qwave_rtt_ms 1", "gauge") == {"no base unit"}
    assert wrong("qwave_flows_count 1", "gauge") == {"an ending of histograms"}
    assert wrong("qwave_flows_gauge 1", "gauge") == {"the kind is in the name"}
    assert wrong('qwave_flows{someLabel="1"} 1', "gauge") == {"a label of another form"}
    assert wrong("qwave_flows 1", "gauge", "") == {"no help"}


def test_both_formats_say_the_same(collector: Collector) -> None:
    status, text = collector.ask(Accept=OPEN_TYPE)
    assert status == 200
    as_open = {family.name: family for family in read_open(text)}  # type: ignore[no-untyped-call]  # it says nothing
    families = collector.families()
    assert {name.removesuffix("_info") for name in families} == set(as_open)
    for metric in METRICS:
        assert as_open[metric.name].type == metric.kind.value, metric


def test_every_metric_is_there_and_nothing_else(collector: Collector) -> None:
    found = collector.families()
    assert set(found) == {
        metric.sample if metric.kind is Kind.INFO else metric.name for metric in METRICS
    }


def test_the_page_has_every_metric_with_its_labels() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$", page, re.MULTILINE)
    told = [(each[0], each[1], re.findall(r"\w+", each[2]), each[3]) for each in rows]
    assert told == [
        (metric.sample, metric.kind.value, list(metric.labels), metric.text) for metric in METRICS
    ]


def test_the_dashboard_asks_for_what_there_is(service: Qwaved, collector: Collector) -> None:
    with service.open():
        pass
    dashboard = json.loads(DASHBOARD.read_text())
    known: dict[str, set[str]] = {}
    for metric in METRICS:
        ends = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
        for end in ends:
            extra = {"le"} if end == "_bucket" else set()
            known[metric.sample + end] = {*metric.labels, "instance", *extra}
    there = {sample.name for family in collector.families().values() for sample in family.samples}
    assert there <= set(known)
    asked: set[str] = set()
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            text = target["expr"]
            names = set(re.findall(r"\b(?:qwave|process)_\w+", text))
            assert names, text
            assert names <= set(known), text
            assert text.count("(") == text.count(")"), text
            labels = {label for name in names for label in known[name]}
            used = re.findall(r"(\w+)(?:=~|!=|=)\"", text)
            used += re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            for group in re.findall(r"by \((.*?)\)", text):
                used += group.split(", ")
            assert set(used) <= labels, text
            for name in names:
                if name.endswith(("_total", "_bucket")):
                    assert re.search(rf"(?:rate|increase)\({name}\{{", text), text
            asked |= names
    shown = {metric for metric in METRICS if any(name.startswith(metric.sample) for name in asked)}
    assert shown == set(METRICS)
    # No two lie on each other.
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


# -- places -----------------------------------------------------------------------------


def test_it_is_off_unless_it_is_wanted() -> None:
    with running(config="[sink]\nenabled = false\n") as service:
        assert service.process is not None
        inodes = {
            link.readlink().name
            for link in Path(f"/proc/{service.process.pid}/fd").iterdir()
            if link.is_symlink()
        }
        listening = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        ]
        assert not [row for row in listening if f"socket:[{row[9]}]" in inodes]
        threads = Path(f"/proc/{service.process.pid}/task").iterdir()
        assert len(list(threads)) == 1


def test_a_socket_and_a_reload_that_moves_it() -> None:
    port = free_port()
    with running(config="[sink]\nenabled = false\n") as service:
        path = Path(service.socket).with_name("metrics.sock")
        service.write_config(config(str(path)))
        service.signal(signal.SIGHUP)
        service.wait_for(b"READY=1")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
            asked.connect(str(path))
            asked.sendall(b"GET /metrics HTTP/1.1\r\nHost: whatever\r\n\r\n")
            asked.settimeout(TIMEOUT_S)
            answer = b"".join(iter(lambda: asked.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\nqwave_connections 0\n" in answer
        with socket.create_server(("127.0.0.1", port)):
            service.write_config(config(f"127.0.0.1:{port}"))
            service.signal(signal.SIGHUP)
            service.wait_for(b"READY=1")
            assert not path.exists()
            assert f"metrics cannot be served at 127.0.0.1:{port}" in service.log.read_text()
            with service.open() as qos, datagrams() as sock:
                qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        service.signal(signal.SIGHUP)
        service.wait_for(b"READY=1")
        assert Collector(port).ask()[0] == 200
        service.write_config("[sink]\nenabled = false\n")
        service.signal(signal.SIGHUP)
        service.wait_for(b"READY=1")
        with pytest.raises(ConnectionRefusedError):
            Collector(port).ask()


def test_it_ends_with_the_service_while_somebody_asks() -> None:
    port = free_port()
    with running(config=config(f"127.0.0.1:{port}")), contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        began_s = time.monotonic()
    assert time.monotonic() - began_s < PATIENCE_S


# -- whoever comes ----------------------------------------------------------------------


def round_trips_s(qos: qw.Qos, count: int) -> list[float]:
    """How long changes of a type take."""
    taken = []
    with datagrams() as sock:
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        kinds = (qw.TrafficType.VOICE, qw.TrafficType.AUDIO_VIDEO)
        for number in range(count):
            began_s = time.perf_counter()
            flow.set_traffic_type(kinds[number % 2])
            taken.append(time.perf_counter() - began_s)
    return taken


def test_those_who_never_ask_or_read_keep_nobody_out(
    service: Qwaved, collector: Collector, port: int
) -> None:
    open_before = service.descriptors()
    with contextlib.ExitStack() as stack:
        for number in range(3 * CONNECTIONS):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
            sock.connect(("127.0.0.1", port))
            with contextlib.suppress(OSError):
                sock.send((b"GET /metrics HTTP/1.1\r\n\r\n", b"GET /me", b"")[number % 3])
        assert service.descriptors() - open_before <= CONNECTIONS + 2
        # Programs do not notice, and honest collectors wait.
        with service.open() as qos:
            assert statistics.median(round_trips_s(qos, 500)) < 0.01
        began_s = time.monotonic()
        assert collector.ask()[0] == 200
        # Three lots of them, each of which makes room after a second, and not after five.
        assert time.monotonic() - began_s < 2 * PATIENCE_S
    until_s = time.monotonic() + TIMEOUT_S
    while service.descriptors() > open_before + 1:
        assert time.monotonic() < until_s
        time.sleep(0.1)


def send_on(sock: socket.socket) -> None:
    """Send until the other end has closed."""
    until_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until_s:
        sock.send(b"x")
        time.sleep(0.05)


def test_those_who_wait_for_nothing_are_closed(service: Qwaved, port: int) -> None:
    del service
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as silent,
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as answered,
    ):
        answered.sendall(b"HEAD / HTTP/1.1\r\n\r\n")
        began_s = time.monotonic()
        assert silent.recv(1) == b""
        assert time.monotonic() - began_s > PATIENCE_S / 2
        # It has its answer and keeps its end open: that is closed, too.
        answered.recv(4_096)
        assert answered.recv(1) == b""
        with pytest.raises(OSError, match=r"reset|pipe"):
            send_on(answered)


def test_a_hundred_at_once(service: Qwaved, collector: Collector) -> None:
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(collector.ask()[0])

    threads = [threading.Thread(target=ask) for _ in range(100)]
    with service.open() as qos:
        for thread in threads:
            thread.start()
        slow = max(round_trips_s(qos, 300))
        for thread in threads:
            thread.join(TIMEOUT_S)
    assert statuses == [200] * 100
    assert slow < 1


@pytest.mark.parametrize(
    "text",
    [
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01" + b"x" * 300 + b"\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 5_000,
    ],
)
def test_what_is_no_request_is_told_so(collector: Collector, port: int, text: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock:
        sock.sendall(text)
        answer = sock.recv(4_096)
    assert re.match(rb"HTTP/1\.1 4\d\d ", answer), answer
    assert collector.ask()[0] == 200


def test_other_paths_and_methods(collector: Collector) -> None:
    assert collector.ask("/") == (200, "qwaved: the numbers are at /metrics\n")
    assert collector.ask("/secret")[0] == 404
    assert collector.ask(method="DELETE")[0] == 405
    status, text = collector.ask(method="HEAD")
    assert (status, text) == (200, "")


def test_scraping_without_end_does_not_hold_programs_up(
    service: Qwaved, collector: Collector
) -> None:
    """With thousands of flows to count, a program waits for a page, not for a collection."""
    stop = threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            collector.ask()

    with service.open() as qos, contextlib.ExitStack() as stack:
        for _ in range(6):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for port in range(1, 501):
                qos.add_socket(
                    sock, ("127.0.0.1", port), traffic_type=qw.TrafficType.CONTROL, adaptive=False
                )
        with reaching(service.socket), qw.open(service=True) as other:
            scraper = threading.Thread(target=scrape)
            scraper.start()
            try:
                taken = round_trips_s(other, 2_000)
                samples = collector.fresh()
            finally:
                stop.set()
                scraper.join(TIMEOUT_S)
        assert samples["qwave_flows", "control", "none"] == 3_000
    # A page takes a fifth of a millisecond.
    assert statistics.median(taken) < 0.01
    assert statistics.quantiles(taken, n=100)[98] < 0.1
