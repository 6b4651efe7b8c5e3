"""How lists are laid out for terminals of any width, and how numbers and names are written."""

from __future__ import annotations

import pytest

from openqwave.cli.overview.filters import address_in
from openqwave.cli.overview.flows import COLUMNS as FLOW_COLUMNS
from openqwave.cli.overview.pages import Column, Page, Piece, Row, folded, lay_out
from openqwave.cli.overview.paths import COLUMNS as PATH_COLUMNS
from openqwave.cli.overview.words import (
    bytes_sent,
    cells,
    clean,
    counted,
    cut,
    duration,
    name,
    rate,
)

S = 1_000_000_000

# As wide as they get in ordinary life.
FLOW = ["100000", "www-data", "gst-launch-1.0", "4194304", "excellent effort", "40"]
FLOW += ["10000", "10000", "unmeasured"]
PATH = ["192.168.178.123", "10000", "10000", "10000", "123 ms", "16384"]
PATH += ["12 min", "unmeasured"]


def texts(page: Page) -> list[str]:
    return ["".join(text for text, _ in line) for line in page.lines()]


def pieces(*some: str) -> list[Piece]:
    return [(text, "") for text in some]


# -- pages ----------------------------------------------------------------------------

COLUMNS = [Column("id", is_number=True), Column("name", least=4, rank=1), Column("way", least=3)]


def lines(width: int | None, *rows: tuple[str, str, str]) -> list[str]:
    return texts(lay_out(COLUMNS, [Row(pieces(*row)) for row in rows], [], width))


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    assert lines(None, ("1", "x", "yes"), ("100", "longer", "no")) == [
        " id  name    way",
        "  1  x       yes",
        "100  longer  no",
    ]


def test_the_widest_column_is_cut_first() -> None:
    row = ("1", "abcdefghij", "klmnopq")
    assert lines(23, row)[1] == " 1  abcdefghij  klmnopq"
    assert lines(21, row)[1] == " 1  abcdefg…  klmnopq"
    assert lines(18, row)[1] == " 1  abcde…  klmno…"
    # The heading is cut with it.
    assert lines(16, row) == ["id  name   way", " 1  abcd…  klmn…"]


def test_what_cannot_be_cut_further_is_left_out_by_rank() -> None:
    row = ("1", "abcdefghij", "klmnopq")
    assert lines(13, row)[1] == " 1  abc…  kl…"
    assert lines(12, row) == ["id  way", " 1  klmnopq"]
    # The rest stays, too long or not.
    assert lines(3, row) == ["id  way", " 1  kl…"]


def test_what_has_no_column_is_folded_below() -> None:
    row = Row(
        pieces("1", "x", "y"), ["first thing", "second one", "a third thing of words", "last"]
    )
    assert texts(lay_out(COLUMNS, [row], ["And a note at the end."], 20)) == [
        "id  name  way",
        " 1  x     y",
        "    first thing;",
        "    second one;",
        "    a third thing of",
        "    words; last",
        "And a note at the",
        "end.",
    ]
    assert texts(lay_out(COLUMNS, [row], [], None))[2] == (
        "    first thing; second one; a third thing of words; last"
    )


def test_without_rows_there_is_no_heading() -> None:
    assert texts(lay_out(COLUMNS, [], ["Nothing."], 80)) == ["Nothing."]


def test_words_that_are_too_long_are_cut_in_two() -> None:
    assert folded("ab " + "x" * 25 + " cd", 10) == ["ab", "x" * 10, "x" * 10, "x" * 5 + " cd"]
    assert folded("漢字漢字", 3, " ") == [" 漢", " 字", " 漢", " 字"]
    assert folded("漢字", 1) == ["漢", "字"]
    assert folded("", 10) == []


@pytest.mark.parametrize("width", [*range(40, 81), 100, 200])
@pytest.mark.parametrize(
    ("columns", "row", "kept"),
    [
        (FLOW_COLUMNS, FLOW, {"flow", "program", "DSCP", "contract", "sends"}),
        (PATH_COLUMNS, PATH, {"host", "free", "state"}),
    ],
)
def test_lists_fit_terminals(
    columns: tuple[Column, ...], row: list[str], kept: set[str], width: int
) -> None:
    head, line = texts(lay_out(columns, [Row(pieces(*row))], [], width))
    assert max(cells(head), cells(line)) <= width
    shown = {column.heading for column in columns if column.heading in head}
    assert kept <= shown
    if width >= 60 and columns is PATH_COLUMNS:
        assert kept | {"capacity", "held"} <= shown
    if width >= 80:
        assert shown == {column.heading for column in columns}


def test_a_long_address_is_shown_whole() -> None:
    host = "2001:db8:1234:5678:9abc:def0:1234:5678"
    head, line = texts(lay_out(PATH_COLUMNS, [Row(pieces(host, *PATH[1:]))], [], 80))
    assert line.startswith(f"{host} ")
    assert head.split() == ["host", "capacity", "free", "held", "state"]
    assert max(cells(head), cells(line)) <= 80


def test_a_page_shows_what_fits_and_says_what_does_not() -> None:
    rows = [Row(pieces(str(number), "x", "y"), ["below"]) for number in range(5)]
    page = lay_out(COLUMNS, rows, ["note"], 80)
    assert page.cropped(12, "things") is page
    cropped = texts(page.cropped(11, "things"))
    assert len(cropped) == 11
    assert cropped[-2:] == ["... and 1 more things, which do not fit here", "note"]
    assert texts(page.cropped(6, "things"))[1:] == [
        " 0  x     y",
        "    below",
        "... and 4 more things, which do not fit here",
        "note",
    ]
    assert texts(page.cropped(0, "things"))[1:] == [
        "... and 5 more things, which do not fit here",
        "note",
    ]


# -- words ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bps", "text"),
    [
        (None, "?"),
        (0, "0"),
        (1, "<0.01"),
        (9_999, "<0.01"),
        (10_000, "0.01"),
        (1_234_000, "1.23"),
        (12_340_000, "12.3"),
        (123_400_000, "123"),
        (12_345_678_901, "12346"),
    ],
)
def test_rates(bps: int | None, text: str) -> None:
    assert rate(bps) == text


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (None, "?"),
        (0, "0.0 s"),
        (1_250_000_000, "1.2 s"),
        (59 * S, "59 s"),
        (119 * S, "119 s"),
        (120 * S, "2 min"),
        (7_199 * S, "119 min"),
        (7_200 * S, "2 h"),
        (172_799 * S, "47 h"),
        (172_800 * S, "2 d"),
    ],
)
def test_durations(time_ns: int | None, text: str) -> None:
    assert duration(time_ns) == text


def test_counts() -> None:
    assert (counted(1, "flow"), counted(2, "flow"), counted(1_000, "flow")) == (
        "1 flow",
        "2 flows",
        "1,000 flows",
    )
    assert [bytes_sent(count) for count in (0, 1_499, 2_340_000, 5_000_000_000)] == [
        "0 kB",
        "1 kB",
        "2.34 MB",
        "5.00 GB",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ffmpeg", "ffmpeg"),
        ("a b", "a b"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\n\t\r\0", "\\n\\t\\r\\x00"),
        ("\x85\x9b", "\\x85\\x9b"),
        # What turns writing round, joins or hides.
        ("\u202ea\u2066\u200b\ufeff", "\\u202ea\\u2066\\u200b\\ufeff"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("é漢", "é漢"),
    ],
)
def test_what_does_not_print_is_written_as_its_number(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_names() -> None:
    assert name("") == "?"
    assert name("x" * 64) == "x" * 64
    assert name("x" * 65) == "x" * 63 + "…"
    # Cut after it was made harmless, which makes it longer.
    assert name("\x1b" * 64) == "\\x1b" * 15 + "\\x1…"


def test_cells() -> None:
    assert (cells("abc"), cells("漢字"), cells("e\u0301"), cells("")) == (3, 4, 1, 0)
    assert (cut("abcdef", 6), cut("abcdef", 5), cut("漢字漢", 4)) == ("abcdef", "abcd…", "漢…")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:5004", "192.0.2.1"),
        ("[2001:db8::1]:5004", "2001:db8::1"),
        ("[fe80::1%3]:5004", "fe80::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("", "None"),
        ("[", "None"),
        ("x:y", "None"),
    ],
)
def test_addresses_in_texts(text: str, address: str) -> None:
    assert str(address_in(text)) == address
