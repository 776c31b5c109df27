"""Query parameters, read and checked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flamewell_collector.analysis.flamegraph import DEFAULT_MAX_NODES
from flamewell_collector.errors import QueryError
from flamewell_collector.model import Selection
from flamewell_collector.selectors import parse_selector
from flamewell_collector.timerange import (
    TimeRange,
    check_step,
    choose_step_ms,
    make_range,
    parse_time,
)
from flamewell_wire import profile_types

MAX_NODES: Final = 1_000_000
MAX_ROWS: Final = 1_000_000
DEFAULT_ROWS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of one request.

    Attributes:
        values: As they came.
        tenant: Whose data is asked for.
        now_ms: One instant for the whole request.
    """

    values: Mapping[str, str]
    tenant: str
    now_ms: int

    def text(self, name: str, default: str = "") -> str:
        """Give a parameter; one that is empty counts as not given."""
        return self.values.get(name) or default

    def required(self, name: str) -> str:
        """Give a parameter that must be there.

        Raises:
            QueryError: It is not.
        """
        value = self.text(name)
        if not value:
            raise QueryError(f"the parameter {name!r} is missing")
        return value

    def integer(self, name: str, default: int, *, low: int, high: int) -> int:
        """Give a number within bounds.

        Raises:
            QueryError: It is none, or out of bounds.
        """
        text = self.text(name)
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 18):  # noqa: PLR2004 - int64
            raise QueryError(f"{name} is {text[:40]!r}, a number is expected")
        if not low <= int(text) <= high:
            raise QueryError(f"{name} is {text}, it must be from {low} to {high}")
        return int(text)

    def span(self, prefix: str = "") -> TimeRange:
        """Give the range of ``from`` and ``until``: by default the last hour."""
        start = parse_time(self.text(f"{prefix}from", "now-1h"), now_ms=self.now_ms)
        end = parse_time(self.text(f"{prefix}until", "now"), now_ms=self.now_ms)
        return make_range(start, end)

    def type_id(self) -> str:
        """Give the profile type: CPU by default."""
        return check_type_id(self.text("type", profile_types.CPU.id))

    def selection(self, *, any_type: bool = False) -> Selection:
        """Give what ``type``, ``query``, ``from`` and ``until`` select.

        Args:
            any_type: Without ``type`` all types are selected, instead of CPU.
        """
        type_id = "" if any_type and not self.text("type") else self.type_id()
        return self._selection(type_id, self.text("query"), self.span())

    def base_selection(self) -> Selection:
        """Give the earlier side of a diff: by default the time just before, equally long."""
        span = self.span()
        length = span.end_ms - span.start_ms
        start = self.text("base_from") or str(max(0, span.start_ms - length) * 1_000_000)
        end = self.text("base_until") or str(span.start_ms * 1_000_000)
        base = make_range(
            parse_time(start, now_ms=self.now_ms), parse_time(end, now_ms=self.now_ms)
        )
        return self._selection(self.type_id(), self.text("base_query", self.text("query")), base)

    def step_ms(self, span: TimeRange) -> int:
        """Give the step of a time line: by default one that makes about 200 points."""
        text = self.text("step")
        if not text:
            return choose_step_ms(span)
        try:
            seconds = float(text)
        except ValueError as error:
            raise QueryError(f"step is {text[:40]!r}, seconds are expected") from error
        if not 0 < seconds < 1e9:  # noqa: PLR2004 - 30 years; nan and inf are refused, too
            raise QueryError(f"step is {text[:40]!r}, seconds are expected")
        return check_step(span, max(1, round(seconds * 1_000)))

    def max_nodes(self, name: str = "max_nodes", default: int = DEFAULT_MAX_NODES) -> int:
        """Give how many nodes a graph may have."""
        return self.integer(name, default, low=1, high=MAX_NODES)

    def _selection(self, type_id: str, selector: str, span: TimeRange) -> Selection:
        return Selection(self.tenant, type_id, parse_selector(selector), span.start_ms, span.end_ms)


def check_type_id(text: str) -> str:
    """Check that a text has the form of a profile type id; give it back.

    Raises:
        QueryError: It has not.
    """
    try:
        return profile_types.parse_id(text).id
    except ValueError as error:
        raise QueryError(str(error)) from error
