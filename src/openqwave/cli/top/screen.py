"""The full screen: panes one below the other, keys, and one thread that asks the service.

The thread looks and sends what it saw as a message; so the screen never waits for the service, and
there is never more than one question under way. Panes draw themselves when they are shown, for the
size that they have (`lines`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input

from openqwave.cli.interruption import Interrupted
from openqwave.cli.top import picture, tables
from openqwave.cli.top.arranging import (
    FLOW_ORDERS,
    PATH_ORDERS,
    PROGRAM_ORDERS,
    REFUSAL_ORDERS,
    Arrangement,
)
from openqwave.cli.top.happenings import happenings
from openqwave.cli.top.lines import Lines
from openqwave.cli.top.looks import Look, looks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult

    from openqwave.cli.interruption import Interruption
    from openqwave.cli.overview.pages import Line
    from openqwave.cli.top.happenings import Happening
    from openqwave.cli.top.looks import Glance

# Panes that share the screen where it is high enough for all of them.
_SHARED: Final = ("flows", "paths", "notices")
_TAKING_TURNS: Final = ("flows", "paths", "refused", "notices", "service", "programs")
_PANES: Final = (*_TAKING_TURNS, "help")
# Each has two rows at least, with title and heading, and the flows twice that.
_SHARED_FROM_LINES: Final = 20
# As far back as anybody scrolls.
_NOTICES: Final = 1_000
_PAGE_ROWS: Final = 10


class Looked(Message):
    """The service was looked at.

    Attributes:
        glance: What was seen; None where the time is over.
        found: What happened since the look before.
    """

    def __init__(self, glance: Glance | None, found: Sequence[Happening] = ()) -> None:
        super().__init__()
        self.glance, self.found = glance, found


class TopApp(App[None]):
    """The screen.

    Args:
        interruption: Ends it.
        interval_s: How often to look.
        for_s: For how long; None for until it is ended.
    """

    ENABLE_COMMAND_PALETTE = False
    # Keys are the screen's, unless words are typed.
    AUTO_FOCUS = None
    TITLE = "qwave top"
    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    Lines { height: 1fr; background: ansi_default; color: ansi_default; }
    #flows { height: 2fr; }
    #head, #keys { height: 1; }
    Input, Input:focus {
        height: 1; border: none; padding: 0;
        background: ansi_default; color: ansi_default; background-tint: ansi_default 0%;
    }
    Input > .input--cursor, Input > .input--selection {
        background: ansi_default; color: ansi_default; text-style: reverse;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c,ctrl+q", "quit", priority=True),
        Binding("q", "quit"),
        Binding("ctrl+z", "suspend_process", priority=True),
        Binding("tab", "turn(1)", priority=True),
        Binding("shift+tab", "turn(-1)", priority=True),
        Binding("1", "go('flows')"),
        Binding("2", "go('paths')"),
        Binding("3", "go('refused')"),
        Binding("4", "go('notices')"),
        Binding("5", "go('service')"),
        Binding("6", "go('programs')"),
        Binding("h,question_mark,f1", "go('help')"),
        Binding("escape", "leave", priority=True),
        Binding("up,k", "move(-1)"),
        Binding("down,j", "move(1)"),
        Binding("pageup", f"move({-_PAGE_ROWS})"),
        Binding("pagedown", f"move({_PAGE_ROWS})"),
        Binding("home,g", "move_to(0)"),
        Binding("end,G", "move_to(1)"),
        # At once, so that what is typed next goes where it should.
        Binding("slash", "filter", priority=True),
        Binding("enter", "keep", priority=True),
        Binding("s", "sort"),
        Binding("r", "reverse"),
        Binding("space,f", "freeze"),
        Binding("d", "details"),
        Binding("z", "zoom"),
    ]

    def __init__(
        self, interruption: Interruption, interval_s: float, for_s: float | None = None
    ) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self._interruption = interruption
        self._interval_s, self._for_s = interval_s, for_s
        self._glance: Glance | None = None
        # The last one that saw a service; and what is shown, which is another one while frozen.
        self._seen: Look | None = None
        self._shown: tuple[Glance | None, Look | None] = (None, None)
        self._notices: deque[Happening] = deque(maxlen=_NOTICES)
        self._shown_notices: tuple[Happening, ...] = ()
        self._missed = 0
        self._is_frozen = False
        self._current = "flows"
        self._before_help = "flows"
        self._is_solo = False
        self._has_details: bool | None = None
        self._wanted = ""
        self._first = dict.fromkeys(_PANES, 0)
        self._orders: dict[str, Arrangement[Any]] = {
            "flows": Arrangement(FLOW_ORDERS),
            "paths": Arrangement(PATH_ORDERS),
            "refused": Arrangement(REFUSAL_ORDERS),
            "programs": Arrangement(PROGRAM_ORDERS),
        }

    def compose(self) -> ComposeResult:
        """Put the widgets on the screen."""
        yield Lines(lambda size: self._head(size[0]), "head")
        for name in _PANES:
            yield Lines(partial(self._pane, name), name)
        yield Input(placeholder="words that rows must have", id="filter", compact=True)
        yield Lines(lambda size: [picture.keys(size[0])], "keys")

    def on_mount(self) -> None:
        """Begin to look; and end where a signal asks for that."""
        typed = self.query_one(Input)
        typed.cursor_blink = typed.display = False
        asyncio.get_running_loop().add_reader(self._interruption.fd, self._end)
        self.run_worker(self._look, thread=True)
        self._arrange()

    def on_unmount(self) -> None:
        """Let the thread end, too, which the library waits for."""
        self._end_looking()

    def _end(self) -> None:
        self._end_looking()
        self.exit()

    def _end_looking(self) -> None:
        asyncio.get_running_loop().remove_reader(self._interruption.fd)
        self._interruption.interrupt()

    async def action_quit(self) -> None:
        """End."""
        self._end()

    # -- looks ------------------------------------------------------------------------

    def _look(self) -> None:
        """Look again and again, and compare; in a thread."""
        last: Glance | None = None
        seen: Look | None = None
        try:
            for glance in looks(self._interruption, self._interval_s, self._for_s):
                self.post_message(Looked(glance, happenings(last, seen, glance)))
                last = glance
                seen = glance if isinstance(glance, Look) else seen
        except Interrupted:
            return
        self.post_message(Looked(None))

    def on_looked(self, message: Looked) -> None:
        """Take what was seen."""
        glance = message.glance
        if glance is None:
            self._end()
            return
        found = message.found
        self._notices.extendleft(found)
        self._glance = glance
        if isinstance(glance, Look):
            self._seen = glance
        if self._is_frozen:
            self._missed += len(found)
            self._redraw("head")
            return
        self._show_latest()

    def _show_latest(self) -> None:
        self._shown = (self._glance, self._seen)
        self._shown_notices, self._missed = tuple(self._notices), 0
        self._arrange()

    # -- what is where ----------------------------------------------------------------

    def on_resize(self) -> None:
        """The terminal has another size."""
        self._arrange()

    def _arrange(self) -> None:
        """Show the panes that there is room for, and draw all anew."""
        shares = (
            not self._is_solo
            and self._current in _SHARED
            and self.size.height >= _SHARED_FROM_LINES
        )
        for name in _PANES:
            shown = name in _SHARED if shares else name == self._current
            self.query_one(f"#{name}").display = shown
        head = self.query_one("#head")
        head.styles.height = len(self._head(self.size.width))
        self._redraw("head", "keys", *_PANES)

    def _redraw(self, *names: str) -> None:
        for name in names:
            self.query_one(f"#{name}", Lines).redraw()

    def _head(self, width: int) -> list[Line]:
        shown, seen = self._shown
        frozen = ""
        if self._is_frozen:
            at = "" if shown is None else f" {picture.clock(shown.at_s)}"
            frozen = f"FROZEN{at}"
            if self._missed:
                frozen += f" +{self._missed}"
        # That the service is away is said, frozen or not.
        return picture.head(self._glance, seen, frozen, width)

    def _pane(self, name: str, size: tuple[int, int]) -> list[Line]:
        glance, seen = self._shown
        first, is_current = self._first[name], name == self._current
        match name:
            case "help":
                lines, first = picture.help_lines(first, size)
            case "service":
                lines, first = picture.service_lines(glance, seen, first, size)
            case "notices":
                lines, first = picture.notice_lines(
                    self._shown_notices, first, size, is_current=is_current
                )
            case _ if seen is None:
                lines = [picture.title(name, is_current=is_current, width=size[0])]
            case _:
                lines, first = tables.table_lines(
                    name,
                    seen,
                    self._orders[name],
                    self._wanted,
                    first,
                    size,
                    has_details=self._has_details,
                    is_current=is_current,
                )
        self._first[name] = first
        return lines

    # -- keys -------------------------------------------------------------------------

    def action_go(self, name: str) -> None:
        """Go to a pane."""
        if name == "help" and self._current != "help":
            self._before_help = self._current
        self._current = name
        self._arrange()

    def action_turn(self, by: int) -> None:
        """Go to the next pane."""
        places = _TAKING_TURNS
        here = places.index(self._current) if self._current in places else -1
        self.action_go(places[(here + by) % len(places)])

    def action_leave(self) -> None:
        """Leave the filter, help, the service or a pane that has the whole screen."""
        if isinstance(self.focused, Input) or self._wanted:
            self.query_one(Input).value = self._wanted = ""
            self._stop_typing()
        elif self._current == "help":
            self._current = self._before_help
        elif self._is_solo:
            self._is_solo = False
        else:
            self._current = "flows"
        self._arrange()

    def action_move(self, by: int) -> None:
        """Move through the current pane by rows."""
        # No pane begins after its last row; the first drawing puts that right.
        self._first[self._current] = max(0, self._first[self._current] + by)
        self._redraw(self._current)

    def action_move_to(self, end: int) -> None:
        """Move to the first row of the current pane, or to the last."""
        # As many as notices and refusals can be.
        rows = max(_NOTICES, 0 if self._shown[1] is None else len(self._shown[1].flows))
        self._first[self._current] = rows * end
        self._redraw(self._current)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys of the filter that mean something else, or nothing, while it is typed or not."""
        is_typing = isinstance(self.focused, Input)
        if action == "filter":
            return not is_typing
        return is_typing if action == "keep" else super().check_action(action, parameters)

    def action_filter(self) -> None:
        """Ask for words that rows must have."""
        typed = self.query_one(Input)
        typed.display, self.query_one("#keys").display = True, False
        self.screen.set_focus(typed)

    def action_keep(self) -> None:
        """Keep the filter."""
        self._stop_typing()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self._wanted = event.value
        self._first.update(dict.fromkeys(tables.TABLES, 0))
        self._arrange()

    def _stop_typing(self) -> None:
        self.query_one(Input).display, self.query_one("#keys").display = False, True
        self.screen.set_focus(None)

    def _order(self, turn: Callable[[Arrangement[Any]], Arrangement[Any]]) -> None:
        """Order the current pane in another way; the flows where it has no order."""
        name = self._current if self._current in self._orders else "flows"
        self._orders[name] = turn(self._orders[name])
        self._redraw(*tables.TABLES)

    def action_sort(self) -> None:
        """Sort by something else."""
        self._order(lambda order: order.next())

    def action_reverse(self) -> None:
        """Turn the order round."""
        self._order(lambda order: order.reversed())

    def action_freeze(self) -> None:
        """Let the picture stand, or move on."""
        self._is_frozen = not self._is_frozen
        if self._is_frozen:
            self._redraw("head")
        else:
            self._show_latest()

    def action_details(self) -> None:
        """Show or hide what stands below rows."""
        if self._has_details is None:
            height = self.query_one(f"#{self._current}").size.height
            self._has_details = not tables.shows_details(self._current, height)
        else:
            self._has_details = not self._has_details
        self._redraw(*tables.TABLES)

    def action_zoom(self) -> None:
        """Give the current pane the whole screen, or let others in."""
        self._is_solo = not self._is_solo
        self._arrange()
