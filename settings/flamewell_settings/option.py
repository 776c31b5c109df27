"""How a dataclass field becomes an option."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field
from typing import Any

_KEY = "flamewell_option"


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """What is known of an option besides its name and type.

    Attributes:
        help: One line, for ``--help`` and the docs.
        unit: ``bytes``, ``seconds``, ``Hz``, ``ratio`` … or empty.
        low: Smallest value that is taken.
        high: Largest value that is taken.
        choices: The only values that are taken.
        secret: Shown as ``***`` by ``--print-config``.
        mappings: The value is a list of mappings: a tuple of dicts, in a file as YAML has it, by
            flag or environment as one YAML or JSON text.
    """

    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False
    mappings: bool = False


def option(
    default: Any,
    help: str,  # noqa: A002 - the word that argparse uses
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
    mappings: bool = False,
) -> Any:
    """Declare a dataclass field that is an option.

    Fields may be ``str``, ``int``, ``float``, ``bool``, ``tuple[str, ...]``, or with ``mappings``
    ``tuple[Mapping[str, Any], ...]``.
    """
    spec = OptionSpec(help, unit, low, high, choices, secret, mappings)
    return field(default=default, metadata={_KEY: spec})


def spec_of(declared: Field[Any]) -> OptionSpec:
    """Give the option that a field was declared with.

    Raises:
        TypeError: The field was not made by ``option()``.
    """
    spec = declared.metadata.get(_KEY)
    if not isinstance(spec, OptionSpec) or declared.default is MISSING:
        raise TypeError(f"{declared.name} is not an option with a default")
    return spec
