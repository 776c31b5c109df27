"""OTLP requests built by opentelemetry-proto, with what should come of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry.proto.collector.profiles.v1development import profiles_service_pb2
from opentelemetry.proto.profiles.v1development import profiles_pb2

NOW_MS = 1_800_000_000_000
CPU_ID = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"


class Request:
    """A request whose dictionary grows with what is added."""

    def __init__(self) -> None:
        self.message = profiles_service_pb2.ExportProfilesServiceRequest()
        self.dictionary = self.message.dictionary
        for table in ("mapping", "location", "function", "link", "attribute", "stack"):
            getattr(self.dictionary, f"{table}_table").add()
        self.dictionary.string_table.append("")

    def string(self, text: str) -> int:
        strings = self.dictionary.string_table
        if text not in strings:
            strings.append(text)
        return list(strings).index(text)

    def stack(self, *functions: str) -> int:
        """Add a stack, leaf first."""
        locations = []
        for name in functions:
            self.dictionary.function_table.add(
                name_strindex=self.string(name), filename_strindex=self.string(f"{name}.py")
            )
            location = self.dictionary.location_table.add()
            location.lines.add(function_index=len(self.dictionary.function_table) - 1, line=7)
            locations.append(len(self.dictionary.location_table) - 1)
        self.dictionary.stack_table.add(location_indices=locations)
        return len(self.dictionary.stack_table) - 1

    def attribute(self, key: str, value: str) -> int:
        entry = self.dictionary.attribute_table.add(key_strindex=self.string(key))
        entry.value.string_value = value
        return len(self.dictionary.attribute_table) - 1

    def resource(self, **attributes: Any) -> Resource:
        """Add a resource; ``__`` in a name stands for a dot."""
        entry = self.message.resource_profiles.add()
        for key, value in attributes.items():
            pair = entry.resource.attributes.add(key=key.replace("__", "."))
            kind = {
                str: "string_value",
                bool: "bool_value",
                int: "int_value",
                float: "double_value",
            }
            setattr(pair.value, kind[type(value)], value)
        return Resource(self, entry)

    def encoded(self) -> bytes:
        return self.message.SerializeToString()


class Resource:
    def __init__(self, request: Request, entry: profiles_pb2.ResourceProfiles) -> None:
        self.request = request
        self.entry = entry

    def profile(
        self,
        samples: Iterable[tuple[int, int | Sequence[int]]] = (),
        *,
        sample_type: tuple[str, str] = ("cpu", "nanoseconds"),
        period_type: tuple[str, str] = ("cpu", "nanoseconds"),
        period: int = 1,
        time_ms: int = NOW_MS,
        type_id: str = "",
    ) -> profiles_pb2.Profile:
        scopes = self.entry.scope_profiles
        profile = (scopes[0] if scopes else scopes.add()).profiles.add(
            time_unix_nano=time_ms * 1_000_000, duration_nano=15 * 10**9, period=period
        )
        string = self.request.string
        profile.sample_type.type_strindex = string(sample_type[0])
        profile.sample_type.unit_strindex = string(sample_type[1])
        profile.period_type.type_strindex = string(period_type[0])
        profile.period_type.unit_strindex = string(period_type[1])
        if type_id:
            profile.attribute_indices.append(
                self.request.attribute("flamewell.profile_type", type_id)
            )
        for stack, value in samples:
            values = [value] if isinstance(value, int) else value
            profile.samples.add(stack_index=stack, values=values)
        return profile


def simple(batch_id: str, value: int = 5, *, time_ms: int | None = None) -> bytes:
    """One CPU profile of two samples: ``value`` and 2 · ``value``."""
    request = Request()
    resource = request.resource(service__name="payments", flamewell__batch_id=batch_id)
    resource.profile(
        [(request.stack("f", "main"), value), (request.stack("g", "main"), 2 * value)],
        time_ms=time.time_ns() // 1_000_000 if time_ms is None else time_ms,
    )
    return request.encoded()
