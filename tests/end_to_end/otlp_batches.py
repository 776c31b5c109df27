"""Builds OTLP batches with known totals, by opentelemetry-proto alone."""

from __future__ import annotations

import time

from opentelemetry.proto.collector.profiles.v1development import profiles_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.profiles.v1development import profiles_pb2


def text_attribute(key: str, value: str) -> common_pb2.KeyValue:
    return common_pb2.KeyValue(key=key, value=common_pb2.AnyValue(string_value=value))


def cpu_request(
    *, service: str, batch_id: str, functions: dict[str, int], time_ms: int | None = None
) -> bytes:
    """Make a request with one CPU profile.

    Args:
        service: service.name.
        batch_id: Idempotency key.
        functions: Function name to nanoseconds; each is called from ``main``.
        time_ms: When; now by default.
    """
    strings = ["", "samples", "count", "cpu", "nanoseconds", "main", "app.py", *functions]
    dictionary = profiles_pb2.ProfilesDictionary(
        mapping_table=[profiles_pb2.Mapping()],
        link_table=[profiles_pb2.Link()],
        attribute_table=[profiles_pb2.KeyValueAndUnit()],
        string_table=strings,
        function_table=[profiles_pb2.Function()]
        + [
            profiles_pb2.Function(name_strindex=strings.index(name), filename_strindex=6)
            for name in ("main", *functions)
        ],
        location_table=[profiles_pb2.Location()]
        + [
            profiles_pb2.Location(lines=[profiles_pb2.Line(function_index=at + 1, line=at + 1)])
            for at in range(len(functions) + 1)
        ],
        stack_table=[profiles_pb2.Stack()]
        + [profiles_pb2.Stack(location_indices=[at + 2, 1]) for at in range(len(functions))],
    )
    profile = profiles_pb2.Profile(
        sample_type=profiles_pb2.ValueType(type_strindex=3, unit_strindex=4),
        period_type=profiles_pb2.ValueType(type_strindex=3, unit_strindex=4),
        period=1,
        time_unix_nano=(time_ms or int(time.time() * 1000)) * 1_000_000,
        duration_nano=1_000_000_000,
        samples=[
            profiles_pb2.Sample(stack_index=at + 1, values=[value])
            for at, value in enumerate(functions.values())
        ],
    )
    resource = profiles_pb2.ResourceProfiles(
        scope_profiles=[profiles_pb2.ScopeProfiles(profiles=[profile])]
    )
    resource.resource.attributes.extend(
        [
            text_attribute("service.name", service),
            text_attribute("flamewell.batch_id", batch_id),
        ]
    )
    return profiles_service_pb2.ExportProfilesServiceRequest(
        resource_profiles=[resource], dictionary=dictionary
    ).SerializeToString()


def totals_by_batch_id(body: bytes) -> dict[str, dict[str, int]]:
    """Read a request: batch id to profile type to the sum of its amounts."""
    request = profiles_service_pb2.ExportProfilesServiceRequest.FromString(body)
    strings = request.dictionary.string_table
    attributes = request.dictionary.attribute_table
    found: dict[str, dict[str, int]] = {}
    for resource in request.resource_profiles:
        named = {each.key: each.value.string_value for each in resource.resource.attributes}
        totals = found.setdefault(named["flamewell.batch_id"], {})
        for scope in resource.scope_profiles:
            for profile in scope.profiles:
                type_id = next(
                    attributes[at].value.string_value
                    for at in profile.attribute_indices
                    if strings[attributes[at].key_strindex] == "flamewell.profile_type"
                )
                counts = strings[profile.sample_type.type_strindex] == "samples"
                factor = profile.period if counts else 1
                amount = factor * sum(sum(sample.values) for sample in profile.samples)
                totals[type_id] = totals.get(type_id, 0) + amount
    return found
