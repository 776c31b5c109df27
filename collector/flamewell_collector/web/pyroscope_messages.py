"""Requests of Pyroscope's querier.v1, read from protobuf's JSON mapping."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from flamewell_collector.errors import QueryError
from flamewell_collector.model import Matcher, Selection
from flamewell_collector.selectors import parse_selector
from flamewell_collector.timerange import TimeRange, check_step, choose_step_ms, make_range
from flamewell_collector.web.otlp import TENANT
from flamewell_collector.web.parameters import MAX_NODES, check_type_id

_ALL_AHEAD_MS: Final = 3_600_000
"""What "everything" reaches beyond now: clocks of senders may be ahead."""

_MAX_SELECTORS: Final = 100
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")


class Message:
    """A request. Fields may be missing; the mapping's lowerCamel and proto names both count."""

    def __init__(self, body: Mapping[str, Any], now_ms: int) -> None:
        """Take a parsed body.

        Args:
            body: As it came.
            now_ms: One instant for the whole request.
        """
        self._body = body
        self._now_ms = now_ms

    def text(self, *names: str) -> str:
        """Give the first of these fields that is there.

        Raises:
            QueryError: It is no text.
        """
        for name in names:
            value = self._body.get(name)
            if value is not None:
                if not isinstance(value, str):
                    raise QueryError(f"the field `{name}` must be a string")
                return value
        return ""

    def texts(self, *names: str) -> tuple[str, ...]:
        """Give a list of texts.

        Raises:
            QueryError: It is none.
        """
        for name in names:
            value = self._body.get(name)
            if value is not None:
                if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                    raise QueryError(f"the field `{name}` must be a list of strings")
                return tuple(value)
        return ()

    def integer(self, *names: str) -> int:
        """Give a 64-bit number, written as number or string; 0 where it is missing.

        Raises:
            QueryError: It is none.
        """
        for name in names:
            value = self._body.get(name)
            if value is None:
                continue
            if isinstance(value, int) and not isinstance(value, bool):
                number = value
            elif (isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value)) or (
                isinstance(value, float) and value.is_integer()
            ):
                number = int(value)
            else:
                raise QueryError(f"the field `{name}` must be a whole number")
            if not -(2**63) <= number < 2**63:
                raise QueryError(f"the field `{name}` must be a 64-bit number")
            return number
        return 0

    def inner(self, name: str) -> Message:
        """Give a request within this one.

        Raises:
            QueryError: There is none.
        """
        value = self._body.get(name)
        if not isinstance(value, dict):
            raise QueryError(f"the field `{name}` is missing: a request of its own")
        return Message(value, self._now_ms)

    def type_id(self) -> str:
        """Give the profile type, in either spelling.

        Raises:
            QueryError: It is missing or malformed.
        """
        text = self.text("profileTypeID", "profile_typeID", "profileTypeId", "profile_type_id")
        if not text:
            raise QueryError("the field `profileTypeID` is missing")
        return check_type_id(text)

    def span(self) -> TimeRange:
        """Give the range; a start and end of 0 mean everything."""
        start, end = self.integer("start"), self.integer("end")
        if start == 0 and end == 0:
            return TimeRange(0, self._now_ms + _ALL_AHEAD_MS)
        return make_range(max(0, start), end)

    def selection(self, type_id: str) -> Selection:
        """Give what ``labelSelector`` or ``matchers``, ``start`` and ``end`` select."""
        span = self.span()
        return Selection(TENANT, type_id, self._matchers(), span.start_ms, span.end_ms)

    def step_ms(self) -> int:
        """Give the step, which comes in seconds.

        Raises:
            QueryError: It is none, or gives too many points.
        """
        span = self.span()
        value = self._body.get("step")
        if value is None or value == 0:
            return choose_step_ms(span)
        try:
            seconds = float(value)
        except (TypeError, ValueError) as error:
            raise QueryError("the field `step` must be seconds") from error
        if not 0 < seconds < 1e9:  # noqa: PLR2004 - 30 years; nan and inf are refused, too
            raise QueryError("the field `step` must be seconds")
        return check_step(span, max(1, round(seconds * 1_000)))

    def max_nodes(self, default: int) -> int:
        """Give how many nodes a graph may have."""
        asked = self.integer("maxNodes", "max_nodes")
        return min(asked, MAX_NODES) if asked > 0 else default

    def _matchers(self) -> tuple[Matcher, ...]:
        """Read the selector; of several, all must match (Pyroscope's clients send one)."""
        texts = (self.text("labelSelector", "label_selector"), *self.texts("matchers"))
        if len(texts) > _MAX_SELECTORS:
            raise QueryError(f"more than {_MAX_SELECTORS} selectors")
        return tuple(matcher for text in texts for matcher in parse_selector(text))


def text_of(number: int) -> str:
    """Write a 64-bit number as protobuf's JSON mapping does."""
    return str(number)
