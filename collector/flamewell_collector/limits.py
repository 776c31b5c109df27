"""What ingest takes, each with the default that clients may rely on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request, profile or series, of a tenant, and of all together.

    Attributes:
        body_bytes: Of a request, decompressed.
        profile_samples: Profiles with more are rejected.
        profile_bytes: Profiles with more are rejected (as encoded).
        batch_samples: Of a request; profiles that come after are rejected: small ones of few bytes
            could ask for gigabytes otherwise.
        batch_nodes: Nodes of the tree of all stacks of a request; profiles that need more are
            rejected: a body of 64 MiB could ask for gigabytes otherwise.
        batch_frames: Frames of all stacks of a request together; all its profiles are rejected
            beyond.
        stack_depth: Deeper stacks lose their innermost frames, counted.
        symbol_bytes: Longer function and file names are cut, counted.
        label_names: Series with more are rejected.
        label_name_bytes: Series with a longer label name are rejected.
        label_value_bytes: Series with a longer label value are rejected.
        series: Of a tenant; profiles of further series are rejected.
        max_age_ms: Profiles that began earlier are rejected, but those of agents, see next.
        max_spooled_age_ms: The same for resources with a batch id: an agent keeps what it could
            not send, and batch ids are remembered for this long.
        max_ahead_ms: Profiles that begin later than now plus this are rejected.
        memory_bytes: What the requests under way may take together; others are told to wait.
        tenant_bytes_per_second: Decompressed bytes of a tenant; 0 is no limit.
        tenant_samples_per_second: Samples of a tenant; 0 is no limit.
        burst_seconds: So much of a tenant's rates may come at once.
    """

    body_bytes: int = 64 << 20
    profile_samples: int = 16_000
    profile_bytes: int = 4 << 20
    batch_samples: int = 2_000_000
    batch_nodes: int = 2_000_000
    batch_frames: int = 16_000_000
    stack_depth: int = 1_000
    symbol_bytes: int = 64 << 10
    label_names: int = 30
    label_name_bytes: int = 1_024
    label_value_bytes: int = 2_048
    series: int = 100_000
    max_age_ms: int = 3_600_000
    max_spooled_age_ms: int = 24 * 3_600_000
    max_ahead_ms: int = 600_000
    memory_bytes: int = 1 << 30
    tenant_bytes_per_second: float = 0
    tenant_samples_per_second: float = 0
    burst_seconds: float = 10
