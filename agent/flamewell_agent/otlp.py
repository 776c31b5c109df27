"""Batches as OTLP profiles: the only module of the agent that knows OTLP.

One dictionary a batch, shared by all its profiles: a stack, frame or string that many processes
have in common goes over the wire, and is hashed by the collector, once.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
    ExportProfilesServiceResponse,
)
from opentelemetry.proto.profiles.v1development import profiles_pb2

from flamewell_agent import __version__
from flamewell_agent.model import Batch, Frame, Profile, Resource, Stack
from flamewell_wire.attributes import (
    BATCH_ID_ATTRIBUTE,
    PROFILE_TYPE_ATTRIBUTE,
    WIRE_VERSION,
    WIRE_VERSION_ATTRIBUTE,
)
from flamewell_wire.profile_types import ProfileType, parse_id

SCOPE_NAME = "flamewell-agent"
_SURROGATE = re.compile("[\ud800-\udfff]")


def make_agent_id(node_name: str, boot_id: str) -> str:
    """Make the id of one run of the agent on one boot of a node.

    It is new for each start, so that batch sequence numbers may begin at 1 again: a batch id
    never names two different batches. What a former run left in the spool keeps its own ids,
    since they stand inside the encoded batches.
    """
    return f"{node_name}-{boot_id.strip()[:8]}-{secrets.token_hex(4)}"


def encode(batch: Batch, *, agent_id: str) -> bytes:
    """Encode a batch as an ExportProfilesServiceRequest.

    Args:
        batch: Profiles of any number of resources.
        agent_id: With the batch's sequence number it names the batch for good.
    """
    request = ExportProfilesServiceRequest()
    tables = _Tables(request.dictionary)
    by_resource: dict[Resource, list[Profile]] = {}
    for profile in batch.profiles:
        by_resource.setdefault(profile.resource, []).append(profile)
    for index, (resource, profiles) in enumerate(by_resource.items()):
        entry = request.resource_profiles.add()
        attributes = (
            *resource.attributes,
            (BATCH_ID_ATTRIBUTE, f"{agent_id}-{batch.sequence}-{index}"),
            (WIRE_VERSION_ATTRIBUTE, WIRE_VERSION),
        )
        for key, value in attributes:
            pair = entry.resource.attributes.add(key=_valid_text(key))
            pair.value.string_value = _valid_text(value)
        scope = entry.scope_profiles.add()
        scope.scope.name, scope.scope.version = SCOPE_NAME, __version__
        for profile in profiles:
            _add_profile(scope.profiles.add(), profile, tables)
    return request.SerializeToString()


def decode_partial_success(body: bytes) -> tuple[int, str]:
    """Read a collector's answer: how many profiles it refused, and why.

    Raises:
        ValueError: The body is not an ExportProfilesServiceResponse.
    """
    try:
        answer = ExportProfilesServiceResponse.FromString(body)
    except DecodeError as error:
        raise ValueError(f"the answer is no ExportProfilesServiceResponse: {error}") from error
    return answer.partial_success.rejected_profiles, answer.partial_success.error_message


def _add_profile(message: profiles_pb2.Profile, profile: Profile, tables: _Tables) -> None:
    kind = parse_id(profile.type_id)
    message.time_unix_nano = profile.start_unix_nanos
    message.duration_nano = profile.duration_nanos
    message.period = profile.period
    sample_type, period_type = _value_types(kind, profile.period)
    message.sample_type.type_strindex = tables.string(sample_type[0])
    message.sample_type.unit_strindex = tables.string(sample_type[1])
    message.period_type.type_strindex = tables.string(period_type[0])
    message.period_type.unit_strindex = tables.string(period_type[1])
    message.attribute_indices.append(tables.attribute(PROFILE_TYPE_ATTRIBUTE, profile.type_id))
    amounts: dict[int, int] = {}
    for stack, value in profile.samples:
        index = tables.stack(stack)
        amounts[index] = amounts.get(index, 0) + value
    add = message.samples.add
    for index, value in amounts.items():
        add(stack_index=index, values=(value,))


def _value_types(kind: ProfileType, period: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """Give sample type and period type, each with its unit.

    Sample counts that stand for ``period`` of the type's unit are ``samples``; amounts are of the
    type itself.
    """
    if period != 1:
        return ("samples", "count"), (kind.sample_type, kind.sample_unit)
    return (kind.sample_type, kind.sample_unit), (kind.period_type, kind.period_unit)


class _Tables:
    """The dictionary of a batch; entry 0 of every table is the zero value."""

    def __init__(self, dictionary: profiles_pb2.ProfilesDictionary) -> None:
        self._out = dictionary
        dictionary.mapping_table.add()
        dictionary.location_table.add()
        dictionary.function_table.add()
        dictionary.link_table.add()
        dictionary.string_table.append("")
        dictionary.attribute_table.add()
        dictionary.stack_table.add()
        self._strings: dict[str, int] = {"": 0}
        self._functions: dict[tuple[str, str], int] = {}
        self._locations: dict[Frame, int] = {}
        # Samplers share frame objects between the stacks of a window; looking those up by identity
        # saves hashing three fields for each frame of each stack. The batch keeps them alive.
        self._location_of_object: dict[int, int] = {}
        self._stacks: dict[tuple[int, ...], int] = {(): 0}
        self._attributes: dict[tuple[str, str], int] = {}

    def string(self, text: str) -> int:
        index = self._strings.get(text)
        if index is None:
            index = self._strings[text] = len(self._out.string_table)
            self._out.string_table.append(_valid_text(text))
        return index

    def attribute(self, key: str, value: str) -> int:
        index = self._attributes.get((key, value))
        if index is None:
            index = self._attributes[key, value] = len(self._out.attribute_table)
            entry = self._out.attribute_table.add(key_strindex=self.string(key))
            entry.value.string_value = _valid_text(value)
        return index

    def stack(self, stack: Stack) -> int:
        known = self._location_of_object
        try:
            locations = tuple([known[id(frame)] for frame in stack])
        except KeyError:
            locations = self._new_locations(stack)
        index = self._stacks.get(locations)
        if index is None:
            index = self._stacks[locations] = len(self._stacks)
            self._out.stack_table.add(location_indices=locations)
        return index

    def _new_locations(self, stack: Sequence[Frame]) -> tuple[int, ...]:
        locations = tuple([self._location(frame) for frame in stack])
        self._location_of_object.update(zip(map(id, stack), locations, strict=True))
        return locations

    def _location(self, frame: Frame) -> int:
        index = self._locations.get(frame)
        if index is None:
            index = self._locations[frame] = len(self._out.location_table)
            line = self._out.location_table.add().lines.add()
            line.function_index = self._function(frame.function, frame.file)
            line.line = frame.line
        return index

    def _function(self, name: str, file: str) -> int:
        index = self._functions.get((name, file))
        if index is None:
            index = self._functions[name, file] = len(self._out.function_table)
            self._out.function_table.add(
                name_strindex=self.string(name), filename_strindex=self.string(file)
            )
        return index


def _valid_text(text: str) -> str:
    """Replace lone surrogates (undecodable bytes of a name): UTF-8 has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text
