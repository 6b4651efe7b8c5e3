"""What `examples/adaptive_media.py` computes: its ladder, its packets, what it counts of them."""

from __future__ import annotations

import struct
import wave
from itertools import pairwise
from pathlib import Path

import pytest

from examples.adaptive_media import (
    LADDER,
    SAMPLES_PER_S,
    Packetiser,
    Piece,
    Reception,
    main,
    write_piece,
)

STEREO = LADDER[1]
BYE = b"\x81\xcb\x00\x01"


def packets(
    count: int, *, first: int = 0, rung: int = 1, source: int = 7, payload: bytes = b"music"
) -> list[bytes]:
    packetiser = Packetiser(source=source, sequence=first % (1 << 16), first_timestamp=0)
    samples = LADDER[rung].packet_samples
    return [packetiser.packet(LADDER[rung], n * samples, payload) for n in range(count)]


def taken(datagrams: list[bytes], *, delays_s: list[float] | None = None) -> Reception:
    """Packets that arrive in the tempo of the music, each with a delay of its own."""
    reception = Reception()
    for n, datagram in enumerate(datagrams):
        delay_s = 0.0 if delays_s is None else delays_s[n]
        reception.take(datagram, n * STEREO.packet_samples / SAMPLES_PER_S + delay_s)
    return reception


# -- the ladder -----------------------------------------------------------------------


def test_each_rung_is_about_twice_the_one_below() -> None:
    rates_bps = [rung.rate_bps(4) for rung in LADDER]
    # 48,000 samples of 16 bits a second and channel; 700 of them in a packet with 40 bytes of
    # headers.
    assert rates_bps[0] == 768_000 + 768_000 * 40 // 1400
    for below_bps, above_bps in pairwise(rates_bps):
        assert above_bps == pytest.approx(2 * below_bps, rel=0.01)
    assert all(rung.rate_bps(6) > rung.rate_bps(4) for rung in LADDER)


def test_packets_of_every_rung_fit() -> None:
    for rung in LADDER:
        assert 1_300 < 2 * rung.channels * rung.packet_samples <= 1_400


def test_rungs_are_told_apart_by_dynamic_payload_types() -> None:
    types = {rung.payload_type for rung in LADDER}
    assert len(types) == len(LADDER)
    assert all(96 <= each <= 127 for each in types)


# -- the piece ------------------------------------------------------------------------


@pytest.fixture
def piece(tmp_path: Path) -> Piece:
    write_piece(tmp_path / "piece.wav", 2)
    return Piece(tmp_path / "piece.wav")


def test_a_piece_is_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "piece.wav"
    write_piece(path, 4)
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth()) == (4, 2)
        assert (file.getframerate(), file.getnframes()) == (SAMPLES_PER_S, 2 * SAMPLES_PER_S)


def test_samples_travel_with_the_high_octet_first(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "two.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLES_PER_S)
        file.writeframes(struct.pack("<2h", 0x0102, -2))
    assert Piece(tmp_path / "two.wav").payload(0, 2) == struct.pack(">2h", 0x0102, -2)


def test_channels_have_tones_of_their_own(piece: Piece) -> None:
    samples = struct.unpack(">960h", piece.payload(0, 480))
    left, right = samples[::2], samples[1::2]
    assert left != right
    assert max(left) > 7_000
    # 200 Hz and 240 Hz: in the tenth of a second 20 and 24 periods.
    for channel, tone_hz in ((left, 200), (right, 240)):
        period = SAMPLES_PER_S // tone_hz
        assert channel[:period] == channel[period : 2 * period]


def test_a_piece_is_played_again_from_its_end(piece: Piece) -> None:
    end = piece.samples
    assert piece.payload(end - 1, 3) == piece.payload(end - 1, 1) + piece.payload(0, 2)
    assert piece.payload(5 * end + 7, 3) == piece.payload(7, 3)


# -- packets --------------------------------------------------------------------------


def test_a_packet_has_the_header_of_the_rfc() -> None:
    packetiser = Packetiser(source=0xAABBCCDD, sequence=0xFFFF, first_timestamp=0xFFFF_FFFF)
    first = packetiser.packet(STEREO, 0, b"abcd")
    second = packetiser.packet(STEREO, 350, b"efgh")
    # Version 2; the marker on the first of a talkspurt (RFC 3551 section 4.1); type 97.
    assert first.hex() == "80e1ffffffffffffaabbccdd" + b"abcd".hex()
    # Sequence numbers and timestamps go around.
    assert second.hex() == "806100000000015daabbccdd" + b"efgh".hex()
    assert packetiser.goodbye().hex() == "81cb0001aabbccdd"


def test_beginnings_are_random() -> None:
    assert len({Packetiser().source for _ in range(9)}) > 1
    assert len({Packetiser().sequence for _ in range(9)}) > 1


# -- the receiver ---------------------------------------------------------------------


def test_nothing_is_lost_where_all_came() -> None:
    reception = taken(packets(50, first=65_530))
    assert (reception.received, reception.lost, reception.rung) == (50, 0, STEREO)


def test_gaps_are_losses() -> None:
    sent = packets(50, first=65_530)
    assert taken(sent[:10] + sent[13:40] + sent[41:]).lost == 4


def test_order_is_no_loss_and_duplicates_hide_one() -> None:
    sent = packets(20)
    swapped = [*sent[:5], sent[6], sent[5], *sent[7:]]
    assert taken(swapped).lost == 0
    assert taken([*sent[:5], sent[4], *sent[6:]]).lost == 0
    # The highest number counts, not the last one.
    assert taken([*sent[:18], sent[19], sent[18]]).lost == 0


def test_another_stream_begins_anew() -> None:
    reception = taken(packets(20) + packets(5, first=40_000, source=8))
    assert (reception.received, reception.lost) == (5, 0)
    # The same source, far away: it has begun anew.
    reception = taken(packets(20) + packets(5, first=40_000))
    assert (reception.received, reception.lost) == (5, 0)


def test_a_steady_stream_has_no_jitter() -> None:
    assert taken(packets(100), delays_s=[0.25] * 100).jitter_s < 1e-4


def test_jitter_is_the_smoothed_change_of_delay() -> None:
    # RFC 3550 section 6.4.1: each change moves the estimate by a sixteenth of the difference.
    assert taken(packets(2), delays_s=[0.0, 0.016]).jitter_s == pytest.approx(0.001, abs=2e-6)
    swaying = taken(packets(400), delays_s=[0.0, 0.008] * 200)
    assert swaying.jitter_s == pytest.approx(0.008, abs=1e-4)


def test_a_step_is_told_once() -> None:
    reception = Reception()
    sent = packets(2) + packets(2, first=2, rung=3)
    assert [reception.take(each, 0.0) for each in sent] == [True, False, True, False]
    assert (reception.rung, reception.lost) == (LADDER[3], 0)


def test_the_end() -> None:
    reception = taken([*packets(2), BYE + bytes(4)])
    assert reception.is_over
    assert reception.received == 2


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x80",
        packets(1)[0][:12],
        b"\x40" + packets(1)[0][1:],
        packets(1)[0][:1] + b"\x00" + packets(1)[0][2:],
        packets(1)[0][:1] + b"\x7f" + packets(1)[0][2:],
        bytes(1_400),
    ],
    ids=["empty", "short", "headers only", "version 1", "type 0", "type 127", "zeros"],
)
def test_what_is_no_media_counts_for_nothing(datagram: bytes) -> None:
    assert taken([datagram]) == Reception()


# -- the command ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [[], ["send"], ["receive", "port"], ["receive", "0"], ["receive", "--seconds", "-1"]],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["receive", "65536"], ["send", "::1%nowhere"], ["send", "::1", "65536"]]
)
def test_what_cannot_be_done(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("adaptive_media: ")
