"""Notices when the first CPU profiles of the demo services are in the store."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable
from typing import Any

_TIMEOUT_SECONDS = 2.0
_MAX_ANSWER_BYTES = 4 * 1024 * 1024


def profiled_services(url: str, since_ms: int) -> frozenset[str]:
    """Ask a collector which services have CPU profiles since a time.

    Returns:
        Their names; none if the collector does not answer.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    address = f"{url}/api/v1/services?from={since_ms}&until=now"
    try:
        with direct.open(address, timeout=_TIMEOUT_SECONDS) as answer:
            content = json.loads(answer.read(_MAX_ANSWER_BYTES))
    except (OSError, ValueError):
        return frozenset()
    return with_cpu_profiles(content)


def with_cpu_profiles(content: Any) -> frozenset[str]:
    """Take the names of services that have CPU profiles from the API's answer."""
    rows: Iterable[Any] = content.get("services", ()) if isinstance(content, dict) else ()
    return frozenset(
        str(row.get("service_name", ""))
        for row in rows
        if any(str(each).startswith("process_cpu:") for each in row.get("types", ()))
    )
