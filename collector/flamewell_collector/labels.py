"""Series labels: names that selectors take, and limits."""

from __future__ import annotations

import re
from collections.abc import Mapping

from flamewell_collector.errors import ProfileRejected
from flamewell_collector.limits import Limits

_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_]")


def label_name(text: str) -> str:
    """Make a name that selectors take: other characters become underscores."""
    name = _NOT_IN_A_NAME.sub("_", text)
    return f"_{name}" if name[:1].isdigit() else name


def check_labels(labels: Mapping[str, str], limits: Limits) -> None:
    """Hold labels against the limits.

    Raises:
        ProfileRejected: Too many labels, or one is too long.
    """
    if len(labels) > limits.label_names:
        raise ProfileRejected(
            "too_many_labels", f"{len(labels)} labels, {limits.label_names} are taken"
        )
    for name, value in labels.items():
        if len(name.encode()) > limits.label_name_bytes:
            raise ProfileRejected("label_name_too_long", f"label {name[:40]!r}…")
        if len(value.encode()) > limits.label_value_bytes:
            raise ProfileRejected("label_value_too_long", f"the value of label {name!r}")
