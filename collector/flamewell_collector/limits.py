"""What ingest takes, each with the default that clients may rely on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request, profile or series.

    Attributes:
        body_bytes: Of a request, decompressed.
        profile_samples: Profiles with more are rejected.
        profile_bytes: Profiles with more are rejected (as encoded).
        batch_nodes: Nodes of the tree of all stacks of a request; profiles that need more are
            rejected: a body of 64 MiB could ask for gigabytes otherwise.
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
    """

    body_bytes: int = 64 << 20
    profile_samples: int = 16_000
    profile_bytes: int = 4 << 20
    batch_nodes: int = 2_000_000
    stack_depth: int = 1_000
    symbol_bytes: int = 64 << 10
    label_names: int = 30
    label_name_bytes: int = 1_024
    label_value_bytes: int = 2_048
    series: int = 100_000
    max_age_ms: int = 3_600_000
    max_spooled_age_ms: int = 24 * 3_600_000
    max_ahead_ms: int = 600_000
