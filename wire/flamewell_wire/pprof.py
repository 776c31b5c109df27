"""The pprof message classes, built from facts: field names, numbers and types of profile.proto.

Source: https://github.com/google/pprof/blob/main/proto/profile.proto (Apache-2.0); only names,
numbers and types were taken. Building the descriptor here needs no protoc and no generated file;
protobuf's C parser (upb) does the parsing.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_INT64, _UINT64, _BOOL, _STRING = (
    _Field.TYPE_INT64,
    _Field.TYPE_UINT64,
    _Field.TYPE_BOOL,
    _Field.TYPE_STRING,
)
_PACKAGE = "flamewell.pprof"

# message → (field, number, scalar type or message name, repeated)
_SCHEMA: dict[str, tuple[tuple[str, int, int | str, bool], ...]] = {
    "ValueType": (("type", 1, _INT64, False), ("unit", 2, _INT64, False)),
    "Label": (
        ("key", 1, _INT64, False),
        ("str", 2, _INT64, False),
        ("num", 3, _INT64, False),
        ("num_unit", 4, _INT64, False),
    ),
    "Sample": (
        ("location_id", 1, _UINT64, True),
        ("value", 2, _INT64, True),
        ("label", 3, "Label", True),
    ),
    "Mapping": (
        ("id", 1, _UINT64, False),
        ("memory_start", 2, _UINT64, False),
        ("memory_limit", 3, _UINT64, False),
        ("file_offset", 4, _UINT64, False),
        ("filename", 5, _INT64, False),
        ("build_id", 6, _INT64, False),
        ("has_functions", 7, _BOOL, False),
        ("has_filenames", 8, _BOOL, False),
        ("has_line_numbers", 9, _BOOL, False),
        ("has_inline_frames", 10, _BOOL, False),
    ),
    "Line": (
        ("function_id", 1, _UINT64, False),
        ("line", 2, _INT64, False),
        ("column", 3, _INT64, False),
    ),
    "Location": (
        ("id", 1, _UINT64, False),
        ("mapping_id", 2, _UINT64, False),
        ("address", 3, _UINT64, False),
        ("line", 4, "Line", True),
        ("is_folded", 5, _BOOL, False),
    ),
    "Function": (
        ("id", 1, _UINT64, False),
        ("name", 2, _INT64, False),
        ("system_name", 3, _INT64, False),
        ("filename", 4, _INT64, False),
        ("start_line", 5, _INT64, False),
    ),
    "Profile": (
        ("sample_type", 1, "ValueType", True),
        ("sample", 2, "Sample", True),
        ("mapping", 3, "Mapping", True),
        ("location", 4, "Location", True),
        ("function", 5, "Function", True),
        ("string_table", 6, _STRING, True),
        ("drop_frames", 7, _INT64, False),
        ("keep_frames", 8, _INT64, False),
        ("time_nanos", 9, _INT64, False),
        ("duration_nanos", 10, _INT64, False),
        ("period_type", 11, "ValueType", False),
        ("period", 12, _INT64, False),
        ("comment", 13, _INT64, True),
        ("default_sample_type", 14, _INT64, False),
        ("doc_url", 15, _INT64, False),
    ),
}


def _build() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="flamewell/pprof.proto", package=_PACKAGE, syntax="proto3"
    )
    for message_name, fields in _SCHEMA.items():
        message = file.message_type.add(name=message_name)
        for name, number, kind, repeated in fields:
            field = message.field.add(name=name, number=number)
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type = _Field.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{kind}"
            else:
                field.type = _Field.Type.ValueType(kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.Profile")
    return message_factory.GetMessageClass(descriptor)


Profile: Any = _build()
"""The message class ``perftools.profiles.Profile`` of profile.proto."""
