"""Which Go processes serve pprof, and where: a process's listening ports, asked on loopback.

A port belongs to a process when the process holds the socket; an endpoint belongs to it when
/debug/pprof/cmdline there answers with the process's own arguments.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import urlsplit

from flamewell_agent.errors import EndpointError, ProcessGoneError, ProcessUnreadableError
from flamewell_agent.model import Process
from flamewell_agent.procfs import ARGUMENT_BYTES_AT_MOST, ARGUMENTS_AT_MOST
from flamewell_agent.samplers.go_fetch import PprofClient

_LISTEN_STATE = "0A"
_SOCKET_PREFIX = "socket:["
_DESCRIPTORS_AT_MOST = 65_536
_PORTS_ASKED_AT_MOST = 16
_LOOPBACK, _LOOPBACK_IPV6 = "127.0.0.1", "::1"
_NOT_TRUSTED = "certificate_not_trusted"
_PROBE_SECONDS = 2.0
_CMDLINE_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to fetch profiles.

    Attributes:
        url: Base URL.
        service_name: Given by the configuration; empty: the process's own.
        process: Whose it is, None for a configured one that no local process was found for.
        kinds: What an annotation allows to pull; None: everything.
    """

    url: str
    service_name: str = ""
    process: Process | None = None
    kinds: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket: how to reach it from this host, and its inode."""

    host: str
    port: int
    inode: int

    @property
    def url(self) -> str:
        """The base URL of an HTTP server there."""
        return (
            f"http://[{self.host}]:{self.port}"
            if ":" in self.host
            else (f"http://{self.host}:{self.port}")
        )


def find_endpoint(
    process: Process,
    listeners: Sequence[Listener],
    connect: Callable[[str], PprofClient] = PprofClient,
) -> Endpoint:
    """Ask a process's ports for pprof; the first that is the process's own wins.

    Raises:
        EndpointError: ``no_listening_port``, ``no_pprof_endpoint``, or ``certificate_not_trusted``
            where a port may be it that speaks TLS.
    """
    if not listeners:
        raise EndpointError("no_listening_port", "it listens on no TCP port of loopback")
    refusals: list[tuple[int, EndpointError]] = []
    for listener in listeners[:_PORTS_ASKED_AT_MOST]:
        try:
            return Endpoint(_ask_listener(listener, process, connect), process=process)
        except EndpointError as error:
            refusals.append((listener.port, error))
    seen = ", ".join(f"{port}: {error.reason}" for port, error in refusals)
    for _, refusal in refusals:
        if refusal.reason == _NOT_TRUSTED:
            raise EndpointError(_NOT_TRUSTED, f"{seen}; {refusal.detail}")
    raise EndpointError("no_pprof_endpoint", seen)


def ask_cmdline(url: str, connect: Callable[[str], PprofClient] = PprofClient) -> bytes:
    """Ask an endpoint for the arguments of the program behind it.

    Raises:
        EndpointError: It did not answer as it should.
    """
    return connect(url).get("cmdline", timeout_seconds=_PROBE_SECONDS, max_bytes=_CMDLINE_BYTES)


def _ask_listener(
    listener: Listener, process: Process, connect: Callable[[str], PprofClient]
) -> str:
    """Give the base URL by which a port answers for a process.

    Raises:
        EndpointError: ``other_program``, or why it did not answer.
    """
    try:
        return _ask_url(listener.url, process, connect)
    except EndpointError as error:
        if listener.host != _LOOPBACK or error.reason not in {"unreachable", "other_program"}:
            raise
        # A listener on :: may refuse IPv4 (IPV6_V6ONLY), and the IPv4 port be another program's.
        by_ipv6 = Listener(_LOOPBACK_IPV6, listener.port, listener.inode)
        try:
            return _ask_url(by_ipv6.url, process, connect)
        except EndpointError as second:
            raise (error if second.reason == "unreachable" else second) from None


def _ask_url(url: str, process: Process, connect: Callable[[str], PprofClient]) -> str:
    """Ask by HTTP, and by HTTPS where that is wanted; give the URL that answered."""
    try:
        answer = ask_cmdline(url, connect)
    except EndpointError as error:
        if "HTTPS server" not in error.detail:  # in Go's words: "sent an HTTP request to an ..."
            raise
        url = "https" + url.removeprefix("http")
        answer = ask_cmdline(url, connect)
    if not same_cmdline(answer, process.cmdline):
        raise EndpointError("other_program", "it answers with other arguments")
    return url


def same_cmdline(answer: bytes, cmdline: Sequence[str]) -> bool:
    """Compare what /debug/pprof/cmdline gave with a process's arguments. Pure.

    Of arguments that procfs cut, as many must be the same as were kept.
    """
    known = b"\0".join(map(os.fsencode, cmdline))
    if len(known) >= ARGUMENT_BYTES_AT_MOST:
        return answer.startswith(known)
    if len(cmdline) >= ARGUMENTS_AT_MOST and answer.startswith(known + b"\0"):
        return True
    return bool(cmdline) and answer.rstrip(b"\0\n") == known.rstrip(b"\0\n")


def is_loopback(url: str) -> bool:
    """Tell whether a URL names this host by its loopback interface. Pure."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(process: Process, proc_root: Path) -> tuple[Listener, ...]:
    """Find the sockets that a process listens on and that loopback of this host reaches.

    Raises:
        EndpointError: ``other_network_namespace``: its ports are not this host's.
        ProcessGoneError: It ended.
        ProcessUnreadableError: Its descriptors may not be read.
    """
    own = proc_root / str(process.key.pid)
    try:
        if (own / "ns/net").readlink() != (proc_root / "self/ns/net").readlink():
            raise EndpointError("other_network_namespace", "its loopback is not this host's")
        inodes = _socket_inodes(own / "fd")
        tables = [(own / "net" / name).read_text(encoding="ascii") for name in ("tcp", "tcp6")]
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGoneError(str(error)) from error
    except OSError as error:
        raise ProcessUnreadableError(str(error)) from error
    found = {each for text in tables for each in parse_listeners(text) if each.inode in inodes}
    return tuple(sorted(found, key=lambda each: (each.port, each.host)))


def parse_listeners(table: str) -> list[Listener]:
    """Read /proc/PID/net/tcp or tcp6: the listeners that loopback reaches. Pure.

    Lines that are not as the kernel writes them are skipped.
    """
    listeners = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        try:
            local, state, inode = fields[1], fields[3], int(fields[9])
            address_text, port_text = local.split(":")
            host = _reachable_host(parse_address(address_text))
            port = int(port_text, 16)
        except (IndexError, ValueError):
            continue
        if state == _LISTEN_STATE and host and port:
            listeners.append(Listener(host, port, inode))
    return listeners


def parse_address(text: str) -> IPv4Address | IPv6Address:
    """Read the kernel's form of an address: 32-bit words in the host's byte order. Pure.

    Raises:
        ValueError: It is not one.
    """
    raw = bytes.fromhex(text)
    step = -1 if sys.byteorder == "little" else 1
    address = ip_address(b"".join(raw[at : at + 4][::step] for at in range(0, len(raw), 4)))
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _reachable_host(address: IPv4Address | IPv6Address) -> str:
    """Give the loopback address that reaches a listener, empty where none does."""
    if address.is_loopback:
        return str(address)
    if address.is_unspecified:
        # A listener on :: takes IPv4 as well, unless the program refuses it.
        return _LOOPBACK
    return ""


def _socket_inodes(directory: Path) -> set[int]:
    inodes = set()
    with os.scandir(directory) as entries:
        for count, entry in enumerate(entries):
            if count >= _DESCRIPTORS_AT_MOST:
                break
            try:
                target = os.readlink(entry.path)  # noqa: PTH115 - thousands of them: no Path each
            except OSError:  # closed in between
                continue
            if target.startswith(_SOCKET_PREFIX):
                inodes.add(int(target[len(_SOCKET_PREFIX) : -1]))
    return inodes
