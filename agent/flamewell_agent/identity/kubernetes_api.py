"""Lists and watches the pods of one node, as raw JSON over the official client's connection.

The `kubernetes` client brings configuration: in-cluster credentials with rotation, kubeconfig,
certificates, proxies. Its generated API classes and models are left alone: importing CoreV1Api
alone costs another 22 MiB, and a pod as objects several times the memory of its JSON.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException
from kubernetes.config.incluster_config import InClusterConfigLoader
from kubernetes.config.kube_config import load_kube_config

from flamewell_agent import __version__
from flamewell_agent.errors import KubernetesError
from flamewell_agent.identity.kubernetes_lines import (
    LineSplitter,
    WatchEvent,
    error_of_status,
    parse_event,
    parse_list,
)

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATH = "/api/v1/pods"
_CONNECT_SECONDS = 5.0
_PIECE_BYTES = 64 * 1024
_LIST_AT_MOST_BYTES = 64 * 1024 * 1024
"""A page: API servers that list out of their watch cache ignore ``limit``."""
_PAGE_PODS = 100
_PAGES_AT_MOST = 100
_ERROR_BODY_BYTES = 16 * 1024
_LATE_SECONDS = 30.0
"""What a watch may last beyond the time after which the server should have ended it."""
_OK = 200


class PodApi:
    """One client, with the credentials as they are now; used by one thread, aborted by another.

    Args:
        node_name: ``spec.nodeName`` of the pods wanted.
        kubeconfig: File to read; empty: the credentials that Kubernetes mounts into a pod.
        service_account_dir: Where those are.
        request_seconds: How long a single read may take, outside of a watch.

    Raises:
        KubernetesError: ``not_configured``.
    """

    def __init__(
        self,
        node_name: str,
        *,
        kubeconfig: str = "",
        service_account_dir: Path = SERVICE_ACCOUNT_DIR,
        request_seconds: float = 30.0,
    ) -> None:
        self._selector = f"spec.nodeName={node_name}"
        self._request_seconds = request_seconds
        configuration = _configure(kubeconfig, service_account_dir)
        self._host = configuration.host.rstrip("/")
        self._client = ApiClient(configuration)
        self._sockets = _Sockets()
        self._pools: Any = self._client.rest_client.pool_manager
        try:
            self._sockets.follow(self._pools.connection_from_url(self._host))
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise KubernetesError("not_configured", str(error)) from error

    def pages(self, resource_version: str) -> Iterator[tuple[list[Any], str]]:
        """List the pods, page by page, each with the list's resource version.

        Args:
            resource_version: ``0``: from the server's cache, which is cheap for it; empty: as they
                are now, for when its cache was too old.

        Raises:
            KubernetesError: As for every request; ``gone``: begin the list anew.
        """
        query = {"resourceVersion": resource_version, "limit": str(_PAGE_PODS)}
        for _ in range(_PAGES_AT_MOST):
            with self._get(query) as response:
                body = self._read_all(response)
            items, version, token = parse_list(body)
            del body
            yield items, version
            if not token:
                return
            query = {"limit": str(_PAGE_PODS), "continue": token}
        raise KubernetesError("too_large", f"the list has more than {_PAGES_AT_MOST} pages")

    def watch(
        self, resource_version: str, *, seconds: float, stale_seconds: float
    ) -> Generator[list[WatchEvent], None, None]:
        """Give events as they come, those that came together at once.

        First comes an empty list, when the server has accepted the watch. It ends when the server
        ends it after ``seconds``.

        Args:
            resource_version: After which changes are wanted.
            seconds: How long the server should keep the watch.
            stale_seconds: Without an event or a bookmark for so long, the connection is given up.

        Raises:
            KubernetesError: ``stale``, ``too_large``, or as for every request.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        end = time.monotonic() + seconds + _LATE_SECONDS
        with self._get(query) as response:
            yield []
            splitter = LineSplitter()
            heard = time.monotonic()
            while True:
                left = min(heard + stale_seconds, end) - time.monotonic()
                if left <= 0:
                    raise KubernetesError("stale", "no event and no bookmark came any more")
                self._sockets.set_timeout(left)
                piece = self._read(response, "stale")
                if not piece:
                    return
                lines = splitter.feed(piece)
                if splitter.too_long:
                    raise KubernetesError("too_large", "an event is larger than any pod can be")
                if lines:
                    heard = time.monotonic()
                    yield [parse_event(line) for line in lines]

    def abort(self) -> None:
        """End a request that another thread waits for, and let further ones fail."""
        self._sockets.shut_down()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @contextlib.contextmanager
    def _get(self, query: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        headers = {"Accept": "application/json", "User-Agent": f"flamewell-agent/{__version__}"}
        try:
            # Reads the token again where the mounted file may have been rotated.
            self._client.update_params_for_auth(headers, [], ["BearerToken"], _PATH, "GET", None)
        except (ConfigException, OSError) as error:
            raise KubernetesError("not_configured", str(error)) from error
        url = f"{self._host}{_PATH}?{urlencode({'fieldSelector': self._selector, **query})}"
        with _translated("timeout"):
            response = self._pools.request(
                "GET",
                url,
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=self._request_seconds),
            )
        try:
            if response.status != _OK:
                self._refuse(response)
            yield response
        finally:
            # What was not read to its end is not fit for a further request.
            response.close()
            response.release_conn()

    def _refuse(self, response: urllib3.BaseHTTPResponse) -> None:
        body: object = None
        with contextlib.suppress(KubernetesError, ValueError, RecursionError):
            body = json.loads(self._read(response, "timeout", _ERROR_BODY_BYTES) or b"null")
        raise error_of_status(response.status, body, response.headers.get("Retry-After", ""))

    def _read_all(self, response: urllib3.BaseHTTPResponse) -> bytes:
        """Read a body, bounded in size, and in time as a whole."""
        body = bytearray()
        end = time.monotonic() + 2 * self._request_seconds
        while piece := self._read(response, "timeout"):
            body += piece
            if len(body) > _LIST_AT_MOST_BYTES:
                raise KubernetesError("too_large", f"over {_LIST_AT_MOST_BYTES} bytes")
            if time.monotonic() > end:
                raise KubernetesError("timeout", "the list came too slowly")
        return bytes(body)

    def _read(
        self, response: urllib3.BaseHTTPResponse, late: str, at_most: int = _PIECE_BYTES
    ) -> bytes:
        with _translated(late):
            return response.read1(at_most)


class _Sockets:
    """Knows the connection in use, so that another thread can end a read that waits on it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: socket.socket | None = None
        self._ended = False

    def follow(self, pool: Any) -> None:
        """Have every connection that a pool makes reported here."""
        report = self._report

        class Reporting(pool.ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                report(self.sock)

        pool.ConnectionCls = Reporting

    def set_timeout(self, seconds: float) -> None:
        """Say how long the next read may wait."""
        current = self._current
        if current is not None:
            with contextlib.suppress(OSError):
                current.settimeout(seconds)

    def shut_down(self) -> None:
        with self._lock:
            self._ended = True
            self._end(self._current)

    def _report(self, connected: socket.socket) -> None:
        with self._lock:
            self._current = connected
            if self._ended:
                self._end(connected)

    @staticmethod
    def _end(connected: socket.socket | None) -> None:
        if connected is not None:
            with contextlib.suppress(OSError, ValueError):  # closed meanwhile
                # Not SSLSocket's own, which takes the TLS layer away under the reader.
                socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _configure(kubeconfig: str, service_account_dir: Path) -> Configuration:
    configuration = Configuration()
    try:
        if kubeconfig:
            load_kube_config(kubeconfig, client_configuration=configuration, persist_config=False)
        else:
            InClusterConfigLoader(
                token_filename=str(service_account_dir / "token"),
                cert_filename=str(service_account_dir / "ca.crt"),
            ).load_and_set(configuration)
    except Exception as error:
        # A kubeconfig is anything: YAML errors, missing keys, files, failing plug-ins.
        raise KubernetesError("not_configured", f"{type(error).__name__}: {error}") from error
    configuration.connection_pool_maxsize = 1
    return configuration


@contextlib.contextmanager
def _translated(late: str) -> Iterator[None]:
    """Translate what urllib3 raises; ``late`` is the reason of a read that waited too long."""
    try:
        yield
    except urllib3.exceptions.SSLError as error:
        raise KubernetesError("tls", str(error)) from error
    except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
        raise KubernetesError("unreachable", str(error)) from error
    except urllib3.exceptions.TimeoutError as error:
        raise KubernetesError(late, "no answer in time") from error
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        # ValueError: a body whose file was closed, a URL that is none.
        raise KubernetesError("connection_lost", str(error) or type(error).__name__) from error
