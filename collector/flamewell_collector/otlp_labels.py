"""Series labels from OTLP resource attributes."""

from __future__ import annotations

from typing import Any

from flamewell_collector.labels import check_labels, label_name
from flamewell_collector.limits import Limits
from flamewell_collector.otlp_dictionary import string
from flamewell_wire import attributes as names

UNKNOWN_SERVICE = "unknown_service"
"""What OpenTelemetry's resource conventions say where service.name is missing."""


def attributes_of(pairs: Any, dictionary: Any) -> dict[str, str]:
    """Give the attributes with a plain value as text; key and value are inline or by number.

    Raises:
        ProfileRejected: A string number is outside its table.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key = pair.key or string(dictionary, pair.key_strindex)
        kind = pair.value.WhichOneof("value")
        if kind == "string_value_strindex":
            found[key] = string(dictionary, pair.value.string_value_strindex)
        elif kind == "bool_value":
            found[key] = "true" if pair.value.bool_value else "false"
        elif kind in {"string_value", "int_value", "double_value"}:
            found[key] = str(getattr(pair.value, kind))
    return found


def labels_of(attributes: dict[str, str], limits: Limits) -> dict[str, str]:
    """Map attributes to labels; what is not allow-listed is left out.

    Where two attributes mean one label the later in LABEL_OF_ATTRIBUTE wins (the Kubernetes node's
    name over the host name, which in a pod is the pod's), and any of those over ``label.…``.

    Raises:
        ProfileRejected: Too many labels, or one is too long.
    """
    labels = {
        label: attributes[attribute]
        for attribute, label in names.LABEL_OF_ATTRIBUTE.items()
        if attributes.get(attribute)
    }
    for attribute, value in attributes.items():
        if attribute.startswith(names.LABEL_ATTRIBUTE_PREFIX) and value:
            name = label_name(attribute.removeprefix(names.LABEL_ATTRIBUTE_PREFIX))
            if name:
                labels.setdefault(name, value)
    labels.setdefault("service_name", UNKNOWN_SERVICE)
    check_labels(labels, limits)
    return labels
