"""OTLP profile requests and answers as protobuf or JSON; with otlp_dictionary all that knows OTLP.

Samples, locations, functions and stacks stay bytes when a request is parsed: wire_columns reads
them all at once. What is few (resources, attributes, the profiles themselves) are messages.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    json_format,
    message,
    message_factory,
)
from opentelemetry.proto.collector.profiles.v1development import profiles_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.profiles.v1development import profiles_pb2
from opentelemetry.proto.resource.v1 import resource_pb2

from flamewell_collector.errors import InvalidRequest

_MAX_QUOTED = 500
"""Of a parser's message: it may quote the sender's bytes."""
_STATUS_TEXT_BYTES = 4_096
_AS_BYTES = {
    "Profile": {"samples"},
    "ProfilesDictionary": {
        "mapping_table",
        "location_table",
        "function_table",
        "link_table",
        "stack_table",
        "string_table",
    },
}


def _shallow_request() -> Any:
    """Make the request's class from the published descriptors, with bytes for what is many."""
    pool = descriptor_pool.DescriptorPool()
    for published in (common_pb2, resource_pb2, profiles_pb2, profiles_service_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        published.DESCRIPTOR.CopyToProto(file)
        for kind in file.message_type:
            for field in kind.field:
                if field.name in _AS_BYTES.get(kind.name, ()):
                    field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
                    field.ClearField("type_name")
        pool.Add(file)
    name = profiles_service_pb2.ExportProfilesServiceRequest.DESCRIPTOR.full_name
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


_Request: Any = _shallow_request()


def parse_request(body: bytes, *, as_json: bool) -> Any:
    """Parse a request; what is many in it stays bytes.

    Raises:
        InvalidRequest: It is not an ExportProfilesServiceRequest.
    """
    request = _Request()
    # json_format takes an empty list for an empty message.
    if as_json and not body.lstrip().startswith(b"{"):
        raise InvalidRequest("not an ExportProfilesServiceRequest: a JSON object is expected")
    try:
        request.ParseFromString(_from_json(body) if as_json else body)
    except (message.DecodeError, json_format.ParseError, ValueError, RecursionError) as error:
        raise not_a_request(error) from error
    return request


def _from_json(body: bytes) -> bytes:
    whole = profiles_service_pb2.ExportProfilesServiceRequest()
    json_format.Parse(body, whole, ignore_unknown_fields=True, max_recursion_depth=50)
    return whole.SerializeToString()


def not_a_request(error: Exception) -> InvalidRequest:
    """Say that a body is no request."""
    return InvalidRequest(f"not an ExportProfilesServiceRequest: {str(error)[:_MAX_QUOTED]}")


def response(*, rejected_profiles: int, error_message: str, as_json: bool) -> bytes:
    """Encode the answer to a request; empty where everything was taken."""
    answer = profiles_service_pb2.ExportProfilesServiceResponse()
    if rejected_profiles or error_message:
        answer.partial_success.rejected_profiles = rejected_profiles
        answer.partial_success.error_message = error_message
    return json_format.MessageToJson(answer).encode() if as_json else answer.SerializeToString()


def rpc_status(code: int, text: str) -> bytes:
    """Encode a google.rpc.Status: code (field 1, varint), message (field 2, bytes)."""
    encoded = text.encode()[:_STATUS_TEXT_BYTES]
    return b"\x08" + _varint(code) + b"\x12" + _varint(len(encoded)) + encoded


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
