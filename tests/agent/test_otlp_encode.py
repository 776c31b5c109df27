"""The encoder, read back with opentelemetry-proto's own classes."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
    ExportProfilesServiceResponse,
)

from flamewell_agent import otlp
from flamewell_agent.model import Batch, Frame, Profile, Resource
from flamewell_wire import profile_types

MAIN, LOAD, PARSE = (
    Frame("main", "/srv/app.py", 10),
    Frame("load", "/srv/app.py", 20),
    Frame("parse", "/usr/lib/json.py", 5),
)
PAYMENTS = Resource.of({"service.name": "payments", "k8s.namespace.name": "shop"})
ORDERS = Resource.of({"service.name": "orders"})


def cpu(resource: Resource, samples, *, period: int = 20_408_163) -> Profile:
    return Profile(resource, profile_types.CPU.id, 1_000, 15_000_000_000, period, tuple(samples))


def encoded(*profiles: Profile, sequence: int = 7) -> ExportProfilesServiceRequest:
    body = otlp.encode(Batch(sequence, profiles), agent_id="node-1-abc")
    return ExportProfilesServiceRequest.FromString(body)


def stacks_of(request, profile) -> dict[tuple[str, ...], int]:
    """Give names leaf first → value, out of the tables alone."""
    tables = request.dictionary
    found = {}
    for sample in profile.samples:
        names = []
        for location in tables.stack_table[sample.stack_index].location_indices:
            for line in tables.location_table[location].lines:
                function = tables.function_table[line.function_index]
                name = tables.string_table[function.name_strindex]
                file = tables.string_table[function.filename_strindex]
                names.append(f"{name} {file}:{line.line}")
        assert tuple(names) not in found
        found[tuple(names)] = sum(sample.values)
    return found


def test_stacks_are_leaf_first_and_equal_ones_are_merged():
    request = encoded(
        cpu(PAYMENTS, [((PARSE, LOAD, MAIN), 3), ((LOAD, MAIN), 2), ((PARSE, LOAD, MAIN), 4)])
    )
    (profile,) = request.resource_profiles[0].scope_profiles[0].profiles
    assert stacks_of(request, profile) == {
        ("parse /usr/lib/json.py:5", "load /srv/app.py:20", "main /srv/app.py:10"): 7,
        ("load /srv/app.py:20", "main /srv/app.py:10"): 2,
    }


def test_entry_zero_of_every_table_is_the_zero_value():
    tables = encoded(cpu(PAYMENTS, [((MAIN,), 1)])).dictionary
    for name in ("mapping", "location", "function", "link", "attribute", "stack"):
        first = getattr(tables, f"{name}_table")[0]
        assert first == type(first)(), name
    assert tables.string_table[0] == ""


def test_tables_hold_each_entry_once_for_the_whole_batch():
    again = Frame(MAIN.function, MAIN.file, MAIN.line)  # equal, another object
    request = encoded(
        cpu(PAYMENTS, [((LOAD, MAIN), 1)]), cpu(ORDERS, [((LOAD, again), 1), ((again,), 1)])
    )
    tables = request.dictionary
    assert len(tables.stack_table) == 3
    assert len(tables.location_table) == 3
    assert len(tables.function_table) == 3
    assert len(tables.attribute_table) == 2
    assert len(set(tables.string_table)) == len(tables.string_table)


def test_sampled_counts_carry_their_period():
    request = encoded(cpu(PAYMENTS, [((MAIN,), 3)], period=20_408_163))
    (profile,) = request.resource_profiles[0].scope_profiles[0].profiles
    text = request.dictionary.string_table
    assert (text[profile.sample_type.type_strindex], text[profile.sample_type.unit_strindex]) == (
        "samples",
        "count",
    )
    assert (text[profile.period_type.type_strindex], text[profile.period_type.unit_strindex]) == (
        "cpu",
        "nanoseconds",
    )
    assert profile.period == 20_408_163
    assert (profile.time_unix_nano, profile.duration_nano) == (1_000, 15_000_000_000)


def test_amounts_are_of_their_own_type():
    heap = Profile(ORDERS, profile_types.INUSE_SPACE.id, 5, 0, 1, (((MAIN,), 4096),))
    request = encoded(heap)
    (profile,) = request.resource_profiles[0].scope_profiles[0].profiles
    text = request.dictionary.string_table
    assert text[profile.sample_type.type_strindex] == "inuse_space"
    assert text[profile.sample_type.unit_strindex] == "bytes"
    assert text[profile.period_type.type_strindex] == "space"
    assert list(profile.samples[0].values) == [4096]


def test_each_profile_names_its_type():
    request = encoded(
        cpu(PAYMENTS, [((MAIN,), 1)]),
        Profile(PAYMENTS, profile_types.MUTEX_DELAY.id, 5, 1, 1, (((MAIN,), 9),)),
    )
    tables = request.dictionary
    named = []
    for profile in request.resource_profiles[0].scope_profiles[0].profiles:
        (index,) = profile.attribute_indices
        attribute = tables.attribute_table[index]
        assert tables.string_table[attribute.key_strindex] == "flamewell.profile_type"
        named.append(attribute.value.string_value)
    assert named == [profile_types.CPU.id, profile_types.MUTEX_DELAY.id]


def test_resources_carry_attributes_batch_id_and_wire_version():
    request = encoded(
        cpu(PAYMENTS, [((MAIN,), 1)]), cpu(ORDERS, [((MAIN,), 1)]), cpu(PAYMENTS, [((LOAD,), 1)])
    )
    first, second = request.resource_profiles
    attributes = {each.key: each.value.string_value for each in first.resource.attributes}
    assert attributes == {
        "service.name": "payments",
        "k8s.namespace.name": "shop",
        "flamewell.batch_id": "node-1-abc-7-0",
        "flamewell.wire_version": "1",
    }
    assert len(first.scope_profiles[0].profiles) == 2
    assert first.scope_profiles[0].scope.name == "flamewell-agent"
    ids = {
        each.value.string_value
        for each in second.resource.attributes
        if each.key == "flamewell.batch_id"
    }
    assert ids == {"node-1-abc-7-1"}


def test_a_memory_reading_has_the_empty_stack():
    request = encoded(Profile(ORDERS, profile_types.PROCESS_RSS.id, 5, 0, 1, (((), 123),)))
    (profile,) = request.resource_profiles[0].scope_profiles[0].profiles
    assert [(each.stack_index, list(each.values)) for each in profile.samples] == [(0, [123])]


def test_names_that_are_not_unicode_are_sent_with_replacements():
    undecodable = b"caf\xe9".decode("utf-8", "surrogateescape")
    request = encoded(
        cpu(Resource.of({"service.name": undecodable}), [((Frame(undecodable + "\ud800"),), 1)])
    )
    assert any("caf\ufffd" in text for text in request.dictionary.string_table)
    assert request.resource_profiles[0].resource.attributes[0].value.string_value == "caf\ufffd"


def test_an_empty_batch_is_an_empty_request():
    assert not encoded().resource_profiles


def test_agent_ids_differ_from_start_to_start():
    ids = {otlp.make_agent_id("node-1", "0f5e8d6c-1111\n") for _ in range(50)}
    assert len(ids) == 50
    assert all(each.startswith("node-1-0f5e8d6c-") for each in ids)


def test_partial_success_is_read():
    answer = ExportProfilesServiceResponse()
    answer.partial_success.rejected_profiles = 3
    answer.partial_success.error_message = "too old"
    assert otlp.decode_partial_success(answer.SerializeToString()) == (3, "too old")
    assert otlp.decode_partial_success(b"") == (0, "")
    with pytest.raises(ValueError, match="ExportProfilesServiceResponse"):
        otlp.decode_partial_success(b"<html>")
