"""What `slimfleet top` shows and what its keys do. Pure: the terminal itself is elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from monitor.fleet_text import DEVICE_HEAD, DEVICE_LEFT, DEVICE_SHRINK, device_cells, headline
from monitor.terminal_text import plain
from monitor.text_table import cut, table

Data = dict[str, Any]
LINK_ORDER: tuple[str, ...] = (
    "offline",
    "stale",
    "late",
    "never-seen",
    "suspended",
    "online",
    "retired",
)
# Key -> what is sorted by, and how a row is ordered. What needs attention comes first.
SORTS: Mapping[str, tuple[str, Callable[[Data], Any]]] = {
    "n": ("name", lambda row: row["device"]),
    "l": ("link", lambda row: (LINK_ORDER.index(row["link"]), row["device"])),
    "p": ("participation", lambda row: (_low(row["participation"]), row["device"])),
    "s": ("straggler index", lambda row: (_high(row["straggler"]), row["device"])),
    "d": ("drift", lambda row: (_high(row["drift"]), row["device"])),
    "w": ("training width", lambda row: (_high(row["training_width"]), row["device"])),
    "c": ("contribution", lambda row: (_high(row["contribution"]), row["device"])),
    "u": ("last useful work", lambda row: (_low(row["useful_at"]), row["device"])),
    "a": ("alarms", lambda row: (-len(row["alarms"]), row["device"])),
}
HELP = "q quit  / filter  enter open  r reverse  sort: " + " ".join(
    f"{key} {what.split()[-1]}" for key, (what, _) in SORTS.items()
)
DETAIL_HELP = "q or esc back to the fleet"
UP, DOWN, PAGE_UP, PAGE_DOWN, ENTER, ESCAPE, BACKSPACE = (
    "up",
    "down",
    "page-up",
    "page-down",
    "enter",
    "escape",
    "backspace",
)
FILTER_LIMIT = 60


@dataclass(frozen=True)
class TopState:
    """Where the reader is.

    Attributes:
        sort: key of `SORTS`; reverse: the other way round.
        wanted: only rows that hold this text; typing: whether it is being typed.
        selected: name of the marked device, "" = the first.
        opened: name of the device whose page is open, or "".
        scroll: lines of its page that stand above the screen.
        ended: whether the reader has left.
    """

    sort: str = "n"
    reverse: bool = False
    wanted: str = ""
    typing: bool = False
    selected: str = ""
    opened: str = ""
    scroll: int = 0
    ended: bool = False


def _low(value: float | None) -> float:
    return float("inf") if value is None else value


def _high(value: float | None) -> float:
    return float("inf") if value is None else -value


def arranged(state: TopState, rows: Sequence[Data]) -> list[Data]:
    """Return the rows that are wanted, in the order that is wanted."""
    wanted = state.wanted.casefold()
    found = [row for row in rows if wanted in _searched(row)]
    return sorted(found, key=SORTS[state.sort][1], reverse=state.reverse)


def _searched(row: Data) -> str:
    return " ".join([row["device"], row["site"], row["link"], *row["alarms"]]).casefold()


def press(state: TopState, key: str, rows: Sequence[Data], page: int = 10) -> TopState:
    """Return the state after a key.

    Args:
        state: before.
        key: a character, or one of the named keys; unknown ones change nothing.
        rows: of the fleet.
        page: how many lines a page key moves.
    """
    if state.typing:
        return _typed(state, key)
    if state.opened:
        return _in_device(state, key, page)
    if key in SORTS:
        same = key == state.sort
        return replace(state, sort=key, reverse=not state.reverse if same else False)
    moves = {UP: -1, "k": -1, DOWN: 1, "j": 1, PAGE_UP: -page, PAGE_DOWN: page}
    if key in moves:
        return _moved(state, rows, moves[key])
    match key:
        case "q":
            return replace(state, ended=True)
        case "r":
            return replace(state, reverse=not state.reverse)
        case "/":
            return replace(state, typing=True, wanted="")
        case "escape":
            return replace(state, wanted="")
        case "enter":
            shown = arranged(state, rows)
            if shown:
                name = shown[_place(state, shown)]["device"]
                return replace(state, selected=name, opened=name, scroll=0)
    return state


def _typed(state: TopState, key: str) -> TopState:
    match key:
        case "enter":
            return replace(state, typing=False)
        case "escape":
            return replace(state, typing=False, wanted="")
        case "backspace":
            return replace(state, wanted=state.wanted[:-1])
    if len(key) == 1 and key.isprintable() and len(state.wanted) < FILTER_LIMIT:
        return replace(state, wanted=state.wanted + key)
    return state


def _in_device(state: TopState, key: str, page: int) -> TopState:
    moves = {UP: -1, "k": -1, DOWN: 1, "j": 1, PAGE_UP: -page, PAGE_DOWN: page}
    if key in moves:
        return replace(state, scroll=max(0, state.scroll + moves[key]))
    return replace(state, opened="") if key in ("q", ESCAPE) else state


def _place(state: TopState, shown: Sequence[Data]) -> int:
    names = [row["device"] for row in shown]
    return names.index(state.selected) if state.selected in names else 0


def _moved(state: TopState, rows: Sequence[Data], by: int) -> TopState:
    shown = arranged(state, rows)
    if not shown:
        return state
    place = min(max(0, _place(state, shown) + by), len(shown) - 1)
    return replace(state, selected=shown[place]["device"])


def fleet_screen(
    state: TopState, overview: Data, rows: Sequence[Data], columns: int, lines: int
) -> list[str]:
    """Return the fleet as exactly ``lines`` lines of at most ``columns`` characters.

    The marked device has a ">" before its name; the list scrolls with it.

    Args:
        state: where the reader is.
        overview: from `monitor.fleet_data`.
        rows: of the fleet, in any order.
        columns: of the terminal.
        lines: of the terminal.
    """
    top, head, body = fleet_lines(state, overview, rows, max(1, columns - 2))
    place = _place(state, arranged(state, rows))
    room = max(1, lines - len(top) - 2)
    first = max(0, min(place - room // 2, len(body) - room))
    marked = [f"{'>' if at == place else ' '} {line}" for at, line in enumerate(body)]
    screen = [*top, f"  {head}", *marked[first : first + room]]
    return _fitted(screen, cut(HELP, columns), columns, lines)


def fleet_lines(
    state: TopState, overview: Data, rows: Sequence[Data], columns: int
) -> tuple[list[str], str, list[str]]:
    """Return what stands above the fleet table, its head, and a line for each wanted device."""
    shown = arranged(state, rows)
    order = f"by {SORTS[state.sort][0]}{', reversed' if state.reverse else ''}"
    about = f"{len(shown)} of {len(rows)} devices, {order}"
    if state.wanted or state.typing:
        about = f"{about}; filter: {plain(state.wanted)}{'_' if state.typing else ''}"
    cells = [device_cells(row, overview["now"]) for row in shown]
    head, *body = table(DEVICE_HEAD, cells, columns, left=DEVICE_LEFT, shrink=DEVICE_SHRINK)
    return [*headline(overview, columns), cut(about, columns), ""], head, body


def device_screen(
    state: TopState, page: Sequence[str], columns: int, lines: int
) -> tuple[TopState, list[str]]:
    """Return a device's page as exactly ``lines`` lines, and the state with a scroll that exists.

    Args:
        state: where the reader is.
        page: all lines of the device.
        columns: of the terminal.
        lines: of the terminal.
    """
    room = max(1, lines - 1)
    scroll = min(state.scroll, max(0, len(page) - room))
    shown = list(page[scroll : scroll + room])
    more = f"  (lines {scroll + 1} to {scroll + len(shown)} of {len(page)}, arrows move)"
    help_line = cut(DETAIL_HELP + more, columns)
    return replace(state, scroll=scroll), _fitted(shown, help_line, columns, lines)


def _fitted(screen: Sequence[str], last: str, columns: int, lines: int) -> list[str]:
    shown = [cut(line, columns) for line in screen[: lines - 1]]
    return [*shown, *[""] * (lines - 1 - len(shown)), last][-lines:]
