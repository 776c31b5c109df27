"""What is suspected to leak memory, below /api/v1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from flask import Blueprint, Response, request

from flamewell_collector.analysis.leaks.detector import TIERS
from flamewell_collector.analysis.leaks.trend import BINS
from flamewell_collector.analysis.leaks.wording import explain
from flamewell_collector.errors import QueryError
from flamewell_collector.investigation import Growing
from flamewell_collector.leak_metrics import link
from flamewell_collector.leaks import Leaks, Suspect
from flamewell_collector.web.answers import json_answer

_MINUTE_MS: Final = 60_000


CensusOf = Callable[[Suspect], tuple[str, Sequence[Growing]]]


def leaks_blueprint(found: Callable[[], Leaks], *, census_of: CensusOf, url: str) -> Blueprint:
    """Make the door.

    Args:
        found: Gives what was found last.
        census_of: Gives the id of a suspect's census, empty without one, and what grows.
        url: Where people reach this collector, for links.
    """
    blueprint = Blueprint("leaks", __name__, url_prefix="/api/v1")

    @blueprint.get("/leaks")
    def leaks() -> Response:
        tier, service = request.args.get("tier", ""), request.args.get("service", "")
        told = answer(found(), tier=tier, service=service, url=url, census_of=census_of)
        return json_answer(told)

    return blueprint


def answer(
    found: Leaks,
    *,
    tier: str = "",
    service: str = "",
    url: str = "",
    census_of: CensusOf = lambda _suspect: ("", ()),
) -> dict[str, Any]:
    """Give the suspects, the surest and soonest first.

    Args:
        found: What was found.
        tier: Only those of this tier; empty for all.
        service: Only those of this service; empty for all.
        url: Where people reach this collector, for links.
        census_of: Gives the id of a suspect's census, empty without one, and what grows.

    Raises:
        QueryError: There is no such tier, or the service's name can't be one.
    """
    if not service.isprintable():
        raise QueryError(f"service is {service[:40]!r}, a name is expected")
    if tier and tier not in TIERS:
        raise QueryError(f"tier is {tier[:40]!r}, it must be one of {', '.join(TIERS)}")
    return {
        "until_ms": (found.minute + 1) * _MINUTE_MS,
        "containers": found.containers,
        "leaks": [
            {**_leak(each, url), **_census(census_of(each))}
            for each in found.suspects
            if tier in ("", each.verdict.tier)
            and service in ("", each.labels.get("service_name", ""))
        ],
    }


def _leak(suspect: Suspect, url: str) -> dict[str, Any]:
    verdict, evidence = suspect.verdict, suspect.verdict.evidence
    confirmed = verdict.confirmed_since
    return {
        "service_name": suspect.labels.get("service_name", ""),
        "labels": suspect.labels,
        "tier": verdict.tier,
        "since_ms": verdict.since * _MINUTE_MS,
        "confirmed_since_ms": confirmed * _MINUTE_MS if confirmed >= 0 else None,
        "explanation": explain(
            verdict, replicas=suspect.replicas, replicas_growing=suspect.replicas_growing
        ),
        "memory_bytes": round(evidence.level),
        "limit_bytes": _whole(evidence.limit),
        "growth_bytes_per_hour": round(evidence.slope_per_second * 3_600),
        "seconds_to_limit": _whole(evidence.seconds_to_limit),
        "earliest_seconds": _whole(evidence.earliest_seconds),
        "latest_seconds": _whole(evidence.latest_seconds),
        "score": round(evidence.share, 3),
        "replicas": suspect.replicas,
        "replicas_growing": suspect.replicas_growing,
        "evidence": {
            "window_seconds": evidence.bin_minutes * BINS * 60,
            "until_ms": (evidence.minute + 1) * _MINUTE_MS,
            "rise_bytes": round(evidence.rise),
            "order": round(evidence.order, 3),
            "order_beside_cpu": round(evidence.order_beside_cpu, 3),
            "fit": round(evidence.fit, 3),
            "bend": round(evidence.bend, 3),
            "step_share": round(evidence.step, 3),
            "highest_before_bytes": _whole(evidence.highest_before),
            "full_in_a_row": evidence.full_in_a_row,
        },
        "url": link(url, suspect),
    }


def _census(found: tuple[str, Sequence[Growing]]) -> dict[str, Any]:
    capture_id, growing = found
    return {
        "heap_capture": capture_id,
        "growing": [{"type": each.name, "bytes_per_hour": each.bytes_per_hour} for each in growing],
    }


def _whole(value: float) -> int | None:
    """Give a whole number; None where it is not known, or never."""
    return round(value) if math.isfinite(value) else None
