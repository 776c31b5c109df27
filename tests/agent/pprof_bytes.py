"""Builds pprof profiles for tests, as a program would write them."""

from __future__ import annotations

from collections.abc import Sequence

from flamewell_wire import pprof


class Builder:
    """A profile under construction; ids begin at 1, strings at ""."""

    def __init__(self, *sample_types: tuple[str, str]) -> None:
        self.message = pprof.Profile()
        self.message.string_table.append("")
        for kind, unit in sample_types:
            self.message.sample_type.add(type=self.text(kind), unit=self.text(unit))

    def text(self, text: str) -> int:
        table = list(self.message.string_table)
        if text not in table:
            self.message.string_table.append(text)
            table.append(text)
        return table.index(text)

    def function(self, name: str, file: str = "") -> int:
        number = len(self.message.function) + 1
        self.message.function.add(id=number, name=self.text(name), filename=self.text(file))
        return number

    def location(self, *lines: tuple[int, int], mapping: int = 0) -> int:
        """Add a location; lines are (function, line), innermost first."""
        number = len(self.message.location) + 1
        location = self.message.location.add(id=number, mapping_id=mapping, address=number)
        for function, line in lines:
            location.line.add(function_id=function, line=line)
        return number

    def sample(self, locations: Sequence[int], *values: int, label: str = "") -> None:
        sample = self.message.sample.add(location_id=locations, value=values)
        if label:
            sample.label.add(key=self.text("label"), str=self.text(label))

    def simple(self, stacks: dict[tuple[str, ...], tuple[int, ...]]) -> Builder:
        """Add stacks of names, leaf first."""
        locations: dict[str, int] = {}
        for names, values in stacks.items():
            for name in names:
                if name not in locations:
                    locations[name] = self.location((self.function(name, "main.go"), 1))
            self.sample([locations[name] for name in names], *values)
        return self

    def encode(self) -> bytes:
        return self.message.SerializeToString()
