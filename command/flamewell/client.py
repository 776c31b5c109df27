"""Asks a collector over HTTP, with the standard library alone."""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flamewell.errors import CommandError, UsageError
from flamewell.terminal import harmless
from flamewell.transfer import Progress

DEFAULT_URL = "http://127.0.0.1:4040"
_CHUNK_BYTES = 64 * 1024
_MAX_ANSWER_BYTES = 1 << 30
_MAX_ERROR_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask.

    Attributes:
        url: Scheme, host and port, perhaps a path prefix; no slash at its end.
        token: A bearer token, or None.
        timeout_seconds: How long a single read may take.
    """

    url: str
    token: str | None
    timeout_seconds: float = 60.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a token goes to the host that it was given for, and to no other."""

    def redirect_request(self, *_request: Any, **_named: Any) -> None:
        """Refuse."""


class Client:
    """Talks to one collector."""

    def __init__(self, server: Server, *, progress: Callable[[str], Progress]) -> None:
        """Make one; nothing is asked yet.

        Args:
            server: Where to ask.
            progress: Makes what shows that it takes long, from what is being read.
        """
        self._server = server
        self._progress = progress
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if is_loopback(server.url):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def get_json(self, path: str, parameters: Mapping[str, str]) -> Any:
        """Ask for JSON.

        Raises:
            CommandError: There is no answer, or an error, or it is not JSON.
        """
        return self._parse(path, self.get(path, parameters))

    def send_json(self, method: str, path: str, body: Any = None) -> Any:
        """Ask for a change; gives the JSON answer.

        Raises:
            UsageError: The collector says that the request is wrong.
            CommandError: There is no answer, or an error, or it is not JSON.
        """
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - parse_url allows http and https alone
            self._server.url + path,
            content,
            {"Content-Type": "application/json"} if content else {},
            method=method,
        )
        return self._parse(path, self._ask(request, f"asking for {path.rpartition('/')[2]}"))

    def get(self, path: str, parameters: Mapping[str, str]) -> bytes:
        """Ask for anything.

        Raises:
            UsageError: The collector says that the request is wrong.
            CommandError: There is no answer, an error, or less than was promised.
        """
        url = f"{self._server.url}{path}?{urllib.parse.urlencode(parameters)}"
        request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})  # noqa: S310 - parse_url allows http and https alone
        return self._ask(request, f"reading {path.rpartition('/')[2]}")

    def _parse(self, path: str, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError as error:
            raise CommandError(
                f"{self._server.url}{path} did not answer with JSON; is that a flamewell collector?"
            ) from error

    def _ask(self, request: urllib.request.Request, what: str) -> bytes:
        if self._server.token:
            request.add_header("Authorization", f"Bearer {self._server.token}")
        with self._progress(what) as progress:
            try:
                with self._opener.open(request, timeout=self._server.timeout_seconds) as answer:
                    return _read(answer, progress)
            except urllib.error.HTTPError as error:
                with error:
                    raise self._refusal(error) from error
            except (OSError, http.client.HTTPException) as error:
                raise CommandError(self._failure(error)) from error

    def _failure(self, error: Exception) -> str:
        """Say in words why there is no answer."""
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            return (
                f"{self._server.url} did not answer within {self._server.timeout_seconds:g} s; "
                "ask for less (--since 15m) or give it more time (--timeout 300)"
            )
        if isinstance(reason, ssl.SSLError):
            return f"no secure connection to {self._server.url}: {reason}"
        if isinstance(reason, http.client.HTTPException):
            return f"{self._server.url} broke its answer off, or does not speak HTTP: {reason!r}"
        text = getattr(reason, "strerror", None) or str(reason)
        return (
            f"cannot connect to {self._server.url}: {harmless(text)}. Is the collector running? "
            "`flamewell up` starts one on this machine; --url or FLAMEWELL_URL names another."
        )

    def _refusal(self, error: urllib.error.HTTPError) -> CommandError:
        """Make an error of an HTTP status, with the collector's own words if it has any."""
        if error.code in range(300, 400):
            target = harmless(str(error.headers.get("Location", "")))
            return CommandError(f"{self._server.url} redirects to {target}: give that as --url")
        message = _error_message(error)
        if error.code == HTTPStatus.FORBIDDEN and message:
            return CommandError(f"{self._server.url}: {message}")
        if error.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            what = "the token was refused" if self._server.token else "a token is needed"
            return CommandError(
                f"{self._server.url}: {message or what}; "
                "give one that may read by FLAMEWELL_TOKEN or --token-file FILE"
            )
        if error.code == HTTPStatus.BAD_REQUEST and message:
            return UsageError(message)
        if error.code == HTTPStatus.NOT_FOUND and not message:
            return CommandError(f"{self._server.url} is not a flamewell collector, or an older one")
        return CommandError(
            f"{self._server.url} answered {error.code}: {message or harmless(str(error.reason))}"
        )


def parse_url(text: str) -> str:
    """Check a collector's URL; ``host:port`` alone means http.

    Returns:
        The URL without a slash at its end.

    Raises:
        UsageError: It is not an http or https URL, or has a user, query or fragment.
    """
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        valid = None
        parts = urllib.parse.urlsplit("")
    if not valid or not url.isprintable() or " " in url:
        raise UsageError(f"{harmless(text)!r} is not a collector's URL, as in {DEFAULT_URL}")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(
            "a collector's URL has no user, password, query or fragment; a token is given by "
            "FLAMEWELL_TOKEN or --token-file FILE"
        )
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Tell whether a URL names this machine's loopback interface."""
    host = urllib.parse.urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(answer: Any, progress: Progress) -> bytes:
    """Read an answer to its end, unpacked.

    Raises:
        CommandError: It is too large.
        http.client.HTTPException: It ends early or is not what its head says.
    """
    unpack = None
    if answer.headers.get("Content-Encoding", "").lower() == "gzip":
        unpack = zlib.decompressobj(wbits=31)
    parts, size = [], 0
    while chunk := answer.read(_CHUNK_BYTES):
        progress.received_bytes += len(chunk)
        try:
            part = unpack.decompress(chunk, _MAX_ANSWER_BYTES) if unpack else chunk
        except zlib.error as error:
            raise http.client.HTTPException(f"damaged gzip: {error}") from error
        parts.append(part)
        size += len(part)
        if size >= _MAX_ANSWER_BYTES:
            raise CommandError("the answer has more than 1 GiB; ask for less")
    promised = answer.headers.get("Content-Length", "")
    if (promised.isdecimal() and progress.received_bytes < int(promised)) or (
        unpack and not unpack.eof
    ):
        raise http.client.IncompleteRead(b"".join(parts))
    return b"".join(parts)


def _error_message(error: urllib.error.HTTPError) -> str:
    """Take the message out of ``{"error": {"message": ...}}``; empty if there is none."""
    try:
        content = json.loads(error.read(_MAX_ERROR_BYTES))
        return harmless(str(content["error"]["message"]))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return ""
