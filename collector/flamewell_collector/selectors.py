"""Label selectors: PromQL matcher lists such as ``{service_name="api", pod=~"api-.*"}``.

Grammar: https://prometheus.io/docs/prometheus/latest/querying/basics/#time-series-selectors
(quoted label names of Prometheus 3 included). Regexes run in RE2, whose time is linear in the text,
and match the whole value, as in Prometheus.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NoReturn

import re2

from flamewell_collector.errors import SelectorError
from flamewell_collector.model import Matcher

MAX_SELECTOR_CHARACTERS: Final = 16_384
MAX_MATCHERS: Final = 100
_OPERATORS: Final = ("=~", "!~", "!=", "=")
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.]*")
_SPACE = re.compile(r"[ \t\r\n]*")
_PLAIN = {'"': re.compile(r'[^"\\\n]+'), "'": re.compile(r"[^'\\\n]+")}
_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v",
    "\\": "\\", '"': '"', "'": "'",
}  # fmt: skip
_CODE_POINT = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})")


def parse_selector(text: str) -> tuple[Matcher, ...]:
    """Read a matcher list in braces; an empty text is the same as ``{}``.

    Raises:
        SelectorError: Says where (1-based character position) and what was expected.
    """
    if not text.strip():
        return ()
    if len(text) > MAX_SELECTOR_CHARACTERS:
        raise SelectorError(
            f"the selector is longer than {MAX_SELECTOR_CHARACTERS} characters", position=1
        )
    return _Parser(text).parse()


def matches(matcher: Matcher, value: str) -> bool:
    """Tell whether a label value satisfies a matcher; an absent label has the value ``""``."""
    if matcher.operator == "=":
        return value == matcher.value
    if matcher.operator == "!=":
        return value != matcher.value
    found = _compile(matcher.value).fullmatch(value) is not None
    return found == (matcher.operator == "=~")


@lru_cache(maxsize=512)
def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.dot_nl = True  # Prometheus compiles ^(?s:pattern)$
    return re2.compile(pattern, options)


class _Parser:
    """Walks the text once, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parse(self) -> tuple[Matcher, ...]:
        matchers: list[Matcher] = []
        self._skip_space()
        self._expect("{", 'a selector starts with {, as in {service_name="api"}')
        while not self._accept("}"):
            if matchers:
                self._expect(",", "a comma or } is expected here")
                if self._accept("}"):
                    break
            if len(matchers) == MAX_MATCHERS:
                self._fail(f"more than {MAX_MATCHERS} matchers")
            matchers.append(self._matcher())
        self._skip_space()
        if self._at < len(self._text):
            self._fail("nothing may follow the closing }")
        return tuple(matchers)

    def _matcher(self) -> Matcher:
        name = self._name()
        self._skip_space()
        operator = next((each for each in _OPERATORS if self._ahead(each)), None)
        if operator is None:
            self._fail("one of =, !=, =~ and !~ is expected here")
        self._at += len(operator)
        self._skip_space()
        value_at = self._at
        value = self._quoted('a quoted value is expected here, as in service_name="api"')
        if operator in {"=~", "!~"}:
            self._check_regex(value, value_at)
        return Matcher(name, operator, value)

    def _name(self) -> str:
        self._skip_space()
        if self._at < len(self._text) and self._text[self._at] in "\"'`":
            begin = self._at
            name = self._quoted("")
            if not name:
                self._fail("a label name cannot be empty", at=begin)
            return name
        found = _NAME.match(self._text, self._at)
        if found is None:
            self._fail('a label name is expected here, as in service_name="api"')
        self._at = found.end()
        return found.group()

    def _quoted(self, expected: str) -> str:
        begin = self._at
        quote = self._text[begin : begin + 1]
        if quote not in {'"', "'", "`"}:
            self._fail(expected)
        self._at += 1
        if quote == "`":
            end = self._text.find("`", self._at)
            if end < 0:
                self._fail("this quote is never closed", at=begin)
            raw, self._at = self._text[self._at : end], end + 1
            return raw
        parts: list[str] = []
        while not self._ahead(quote):
            plain = _PLAIN[quote].match(self._text, self._at)
            if plain is not None:
                parts.append(plain.group())
                self._at = plain.end()
            elif self._ahead("\\"):
                parts.append(self._escape())
            else:
                self._fail("this quote is never closed", at=begin)
        self._at += 1
        return "".join(parts)

    def _escape(self) -> str:
        letter = self._text[self._at + 1 : self._at + 2]
        if letter in _ESCAPES:
            self._at += 2
            return _ESCAPES[letter]
        found = _CODE_POINT.match(self._text, self._at + 1)
        if found is None:
            self._fail(r"unknown escape; write \\ for a backslash, or quote with `")
        try:
            character = chr(int(next(group for group in found.groups() if group), 16))
            character.encode()
        except (ValueError, OverflowError):  # beyond Unicode, or half of a surrogate pair
            self._fail("this escape is no Unicode character")
        self._at = found.end()
        return character

    def _check_regex(self, pattern: str, at: int) -> None:
        try:
            _compile(pattern)
        except (re2.error, UnicodeEncodeError) as error:
            reason = error.args[0] if isinstance(error, re2.error) else "not valid Unicode"
            if isinstance(reason, bytes):
                reason = reason.decode("utf-8", "replace")
            self._fail(f"this regular expression is not valid: {reason}", at=at)

    def _ahead(self, token: str) -> bool:
        return self._text.startswith(token, self._at)

    def _accept(self, token: str) -> bool:
        self._skip_space()
        if not self._ahead(token):
            return False
        self._at += len(token)
        return True

    def _expect(self, token: str, expected: str) -> None:
        if not self._accept(token):
            self._fail(expected)

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        if found is not None:
            self._at = found.end()

    def _fail(self, problem: str, *, at: int | None = None) -> NoReturn:
        position = (self._at if at is None else at) + 1
        raise SelectorError(f"selector, character {position}: {problem}", position=position)
