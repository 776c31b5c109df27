"""What a read command asks for: profile type, label selector, time range. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from flamewell.errors import UsageError
from flamewell_wire.profile_types import ALL, CPU, ProfileType, parse_id

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_RELATIVE = re.compile(r"now(?:([+-])(.+))?")
_SECONDS_DIGITS = 10  # epoch seconds have ten digits from 2001 to 2286, milliseconds thirteen
_COLONS_OF_AN_ID = 4
_TIME_FORMS = (
    "30m, 1h30m or 2d (so long ago), now, now-1h, 2026-03-01T10:00 (local time), or seconds or "
    "milliseconds since 1970"
)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From ``from_ms`` until ``until_ms``, in ms since the epoch, half open."""

    from_ms: int
    until_ms: int

    @property
    def length_ms(self) -> int:
        """How long it is."""
        return self.until_ms - self.from_ms

    @property
    def before(self) -> TimeRange:
        """The range of the same length right before it."""
        return TimeRange(self.from_ms - self.length_ms, self.from_ms)


@dataclass(frozen=True, slots=True)
class Selection:
    """What to read.

    Attributes:
        kind: The profile type.
        query: A PromQL label selector.
        range: The time range.
        service: The service that was named, if any.
    """

    kind: ProfileType
    query: str
    range: TimeRange
    service: str | None

    @property
    def parameters(self) -> dict[str, str]:
        """The query parameters of the native API."""
        return {
            "type": self.kind.id,
            "query": self.query,
            "from": str(self.range.from_ms),
            "until": str(self.range.until_ms),
        }


def parse_type(text: str) -> ProfileType:
    """Find the profile type of a short name, ``name:sample type``, or a full id.

    Raises:
        UsageError: There is none of that name, or several.
    """
    found = [each for each in ALL if text in {each.id, each.sample_type, _short(each), each.name}]
    exact = [each for each in found if text in {each.id, _short(each)}]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if text.count(":") == _COLONS_OF_AN_ID:
        return parse_id(text)
    if found:
        raise UsageError(
            f"--type {text} could be {_listed([_short(each) for each in found], 'or')}"
        )
    raise UsageError(
        f"there is no profile type {text!r}; known are {_listed([_short(each) for each in ALL])}, "
        f"and full ids such as {CPU.id}"
    )


def build_query(service: str | None, selector: str | None) -> str:
    """Join a service's name and a label selector to one selector.

    Raises:
        UsageError: The selector's braces do not match.
    """
    inner = (selector or "").strip()
    if inner.startswith("{") != inner.endswith("}") or inner == "{":
        raise UsageError(
            f"--selector {selector!r} is not a label selector, as in '{{namespace=\"prod\"}}'"
        )
    inner = inner.removeprefix("{").removesuffix("}").strip().rstrip(",").rstrip()
    parts = [inner] if inner else []
    if service is not None:
        # Last, so that positions in the collector's messages are those in what was given.
        parts.append(f'service_name="{_escaped(service)}"')
    return "{" + ", ".join(parts) + "}"


def parse_duration_ms(text: str) -> int:
    """Read ``30s``, ``1h30m``, ``1.5d``.

    Raises:
        UsageError: It is not a duration.
    """
    if not _DURATION.fullmatch(text):
        raise UsageError(f"{text!r} is not a length of time, as in 30s, 15m, 1h30m, 2d, 1w")
    return round(sum(float(number) * _UNIT_MS[unit] for number, unit in _PART.findall(text)))


def parse_time_ms(text: str, now_ms: int) -> int:
    """Read a point in time: relative to now, a date, or a number since the epoch.

    Raises:
        UsageError: It is none of these.
    """
    relative = _RELATIVE.fullmatch(text)
    if relative:
        sign, length = relative.groups()
        if not sign:
            return now_ms
        return now_ms + (1 if sign == "+" else -1) * parse_duration_ms(length)
    if text.isdecimal():
        return int(text) * (1000 if len(text) <= _SECONDS_DIGITS else 1)
    if _DURATION.fullmatch(text):
        return now_ms - parse_duration_ms(text)
    try:
        # A time without a zone is local time.
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"{text!r} is not a time; times are {_TIME_FORMS}") from error


def parse_range(
    *, since: str | None, start: str | None, until: str | None, now_ms: int, default: str = "1h"
) -> TimeRange:
    """Make the range of ``--since`` or ``--from``, and ``--until``.

    Raises:
        UsageError: A time can't be read, or the range is empty.
    """
    if since is not None and start is not None:
        raise UsageError("--since and --from both say where the range starts: give one of them")
    until_ms = parse_time_ms(until or "now", now_ms)
    from_ms = (
        parse_time_ms(start, now_ms)
        if start is not None
        else now_ms - parse_duration_ms(since if since is not None else default)
    )
    if from_ms >= until_ms:
        raise UsageError(f"the time range is empty: it starts at {from_ms} and ends at {until_ms}")
    return TimeRange(from_ms, until_ms)


def parse_span(text: str, now_ms: int) -> TimeRange:
    """Read ``2h..1h``: from two hours ago until one hour ago; each end may be any time.

    Raises:
        UsageError: It is not two times with ``..`` between them, or the range is empty.
    """
    start, dots, until = text.partition("..")
    if not dots or not start:
        raise UsageError(f"--base {text!r} is not a range, as in 2h..1h")
    return parse_range(since=None, start=start, until=until or None, now_ms=now_ms)


def _short(kind: ProfileType) -> str:
    return f"{kind.name}:{kind.sample_type}"


def _listed(names: list[str], word: str = "and") -> str:
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _escaped(text: str) -> str:
    """Escape as in a PromQL string, which has Go's rules."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
