"""Names on the wire between agent and collector: resource attributes, labels, pseudo frames."""

from __future__ import annotations

INGEST_PATH = "/v1development/profiles"
"""Where OTLP profiles are posted; an option on both sides, since the signal is not stable yet."""

WIRE_VERSION = "1"
WIRE_VERSION_ATTRIBUTE = "flamewell.wire_version"
BATCH_ID_ATTRIBUTE = "flamewell.batch_id"
"""Resource attribute; unique for each resource of each batch: a resource that comes twice with
the same id is stored once. It is not part of the resource's identity."""

PROFILE_TYPE_ATTRIBUTE = "flamewell.profile_type"
"""Profile attribute with a Pyroscope profile type id; without it the id follows from the sample
and period types. Needed where those are ambiguous (Go's mutex and block profiles)."""

LABEL_OF_ATTRIBUTE: dict[str, str] = {
    "service.name": "service_name",
    "k8s.cluster.name": "cluster",
    "host.name": "node",
    "k8s.node.name": "node",
    "k8s.namespace.name": "namespace",
    "k8s.pod.name": "pod",
    "k8s.container.name": "container",
    "container.name": "container",
    "flamewell.workload.name": "workload",
    "flamewell.workload.kind": "workload_kind",
    "process.executable.name": "executable",
    "process.runtime.name": "runtime",
    "process.runtime.version": "runtime_version",
    "service.version": "service_version",
    "nomad.job": "nomad_job",
    "nomad.group": "nomad_group",
    "nomad.task": "nomad_task",
    "nomad.alloc.id": "nomad_alloc_id",
    "nomad.namespace": "nomad_namespace",
    "nomad.datacenter": "datacenter",
}
"""Resource attribute → series label. Attributes that are not named here and do not start with
``label.`` are not kept as labels (container.id, process.pid: unbounded)."""

LABEL_ATTRIBUTE_PREFIX = "label."
"""``label.team`` on the wire is the series label ``team`` (allow-listed pod labels)."""

NATIVE_FRAME = "[no GIL / native]"
"""CPU time of a Python process in which no thread held the GIL: native code, or the kernel."""

UNSAMPLED_FRAME = "[not sampled]"
"""CPU time of a Python process for which there was no window to tell the stacks."""

OTHER_BLOCKS_FRAME = "(other blocks)"
"""Small blocks of a Python heap that are no objects: tables of small dicts and lists, say."""

EXTRAPOLATED_LABEL = "extrapolated"
"""Series label, ``true`` where stacks of earlier windows stand in for CPU time without a window."""

THREAD_LABEL = "thread"
"""Series label with the name of a thread, where a target's owner asked for names."""

CAPTURE_LABEL = "capture_id"
"""Series label of the profiles that an on-demand capture brought."""
