"""Opens windows one by one, each inside what is left of CPU, samplers and the target's pauses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flamewell_agent.governor.allotment import (
    LOWEST_RATE_HZ,
    PROBE_SECONDS,
    RATES_HZ,
    Purse,
    Service,
    highest_rate,
    known_cost,
    rate_cap,
)
from flamewell_agent.governor.costs import Price, first_cost, price
from flamewell_agent.governor.inputs import Candidate, Inputs, Ordered, Skipped
from flamewell_agent.model import Process, ProcessKey, Window, WindowKind

LEAST_LOOKS = 3
MEMORY_FACTOR, MEMORY_AT_LEAST_BYTES = 4, 64 << 20
"""What a sampler may take before it is ended: so many times what one usually takes, or this."""
WALL_RATE_HZ = 19


@dataclass(slots=True)
class Openings:
    """A decision in the making: windows that are open, and who gets none.

    Attributes:
        inputs: Of the decision.
        purse: What is left.
        windows: That are open.
        skipped: Who gets none, and why.
    """

    inputs: Inputs
    purse: Purse = field(init=False)
    windows: list[Window] = field(default_factory=list)
    skipped: list[tuple[Process, str]] = field(default_factory=list)
    _wall_reasons: dict[ProcessKey, str] = field(default_factory=dict)
    _memory_slots: int = field(init=False)

    def __post_init__(self) -> None:
        """Fill the purse."""
        inputs = self.inputs
        self._memory_slots = max(0, inputs.memory_left_bytes) // max(1, inputs.child_memory_bytes)
        self.purse = Purse(
            inputs.allowance_cpu_seconds * inputs.headroom,
            min(inputs.max_windows, self._memory_slots),
        )

    def open_drawn(self, service: Service, member: Candidate, *, stands: bool) -> None:
        """Open a window that a service has paid for; one it is too dear for gets fewer looks."""
        self.purse.take(service.price, -1)
        rate = highest_rate(min(service.rate_hz, rate_cap(member, self.inputs)))
        shape = self._inside_pause_budget(member, rate, service.seconds)
        if shape is None:
            self.skip((member,), "over_pause_budget")
            return
        rate, seconds = shape
        cost = known_cost(member) or service.cost
        # One that is dearer than the mean of its service gets fewer looks, as few as one a second.
        for lower in reversed([each for each in RATES_HZ if each <= rate]):
            found = price(cost, service.guess, lower, seconds)
            if self.purse.fits(found):
                self._open(member, "cpu", lower, seconds, found, stands=stands)
                return
        self.skip((member,), self.why_not())

    def open_ordered(self, member: Candidate, ordered: Ordered) -> None:
        """Open the window that somebody asked for at its rate, or say why not."""
        whole = self.inputs.window_seconds
        seconds = min(whole, ordered.seconds or whole)
        rate = ordered.rate_hz or highest_rate(rate_cap(member, self.inputs))
        cost = known_cost(member)
        guess = first_cost("cpu", native=member.options.native)
        paused = self._inside_pause_budget(member, rate, seconds)
        if member.options.native and paused != (rate, seconds):
            left = member.pause.left(self.inputs.target_pause_budget)
            would = rate * seconds * member.pause.sample_seconds
            fitting = member.pause.looks(self.inputs.target_pause_budget) // seconds
            self.skip(
                (member,),
                "over_pause_budget: "
                f"would stop it for {would * 1e3:.0f} ms of {left * 1e3:.0f} ms; "
                + _advice(fitting),
            )
            return
        found = price(cost, guess, rate, seconds)
        if self.purse.fits(found):
            self._open(member, "cpu", rate, seconds, found)
            if member.options.wall:
                self.open_wall(member, rate, whole=seconds)
            return
        reason = self.why_not()
        if reason == "over_budget":
            fits = self._highest_fitting(lambda lower: price(cost, guess, lower, seconds), rate)
            reason += (
                f": would cost {found.reserved * 1e3:.0f} ms of {self.purse.left * 1e3:.0f} ms; "
                + _advice(fits)
            )
        self.skip((member,), reason)

    def open_wall(
        self, member: Candidate, rate_hz: int, *, stands: bool = False, whole: int = 0
    ) -> None:
        """Open a wall-clock window where one fits, at a low rate before none.

        Args:
            member: On whom.
            rate_hz: At most.
            stands: For its siblings too.
            whole: Its length in seconds, 0: that of the cycle.
        """
        if member.options.native:
            # It would stop the target too, and its pauses could not be told from the other's.
            self._wall_reasons[member.process.key] = "not_with_native"
            return
        guess = first_cost("wall", native=False)
        whole = whole or self.inputs.window_seconds
        seconds = whole if member.wall_cost is not None else min(PROBE_SECONDS, whole)
        rates = {rate_hz, min(rate_hz, LOWEST_RATE_HZ), min(rate_hz, LEAST_LOOKS), 1}
        for rate in sorted(rates, reverse=True):
            found = price(member.wall_cost, guess, rate, seconds)
            if self.purse.fits(found):
                self._open(member, "wall", rate, seconds, found, stands=stands)
                return
        self._wall_reasons[member.process.key] = self.why_not()

    def skip(self, members: Iterable[Candidate], reason: str) -> None:
        """Note who gets no window."""
        for each in members:
            self.skipped.append((each.process, reason))

    def why_not(self) -> str:
        """Give the reason why a window does not fit."""
        if self.purse.windows >= self.purse.slots:
            memory = self._memory_slots < self.inputs.max_windows
            return "over_memory_ceiling" if memory else "too_many_windows"
        return "over_budget"

    def wall_skipped(self) -> Skipped:
        """Give who asked for a wall-clock window and gets none."""
        wanted = [each for each in self.inputs.candidates if each.options.wall]
        if not wanted:
            return ()
        opened = {each.process.key for each in self.windows if each.kind == "wall"}
        reasons = {each.key: reason for each, reason in self.skipped} | self._wall_reasons
        return tuple(
            (each.process, reasons.get(each.process.key, "over_budget"))
            for each in wanted
            if each.process.key not in opened
        )

    def _memory_limit_bytes(self) -> int:
        inputs = self.inputs
        generous = max(MEMORY_AT_LEAST_BYTES, MEMORY_FACTOR * inputs.child_memory_bytes)
        return min(generous, max(0, inputs.memory_left_bytes))

    def _highest_fitting(self, priced: Callable[[int], Price], below: int) -> int:
        fitting = [rate for rate in RATES_HZ if rate < below and self.purse.fits(priced(rate))]
        return max(fitting, default=0)

    def _inside_pause_budget(
        self, member: Candidate, rate_hz: int, seconds: int
    ) -> tuple[int, int] | None:
        """Give a rate and a length that stop the target no longer than it may be, if there are."""
        if not member.options.native:
            return rate_hz, seconds
        looks = member.pause.looks(self.inputs.target_pause_budget)
        if looks >= rate_hz * seconds:
            return rate_hz, seconds
        if looks >= seconds:
            return highest_rate(looks // seconds), seconds
        return (1, looks) if looks >= min(LEAST_LOOKS, seconds) else None

    def _open(
        self,
        member: Candidate,
        kind: WindowKind,
        rate_hz: int,
        seconds: int,
        cost: Price,
        *,
        stands: bool = False,
    ) -> None:
        self.purse.take(cost)
        options = member.options
        pause = member.pause.left(self.inputs.target_pause_budget) if options.native else math.inf
        self.windows.append(
            Window(
                member.process,
                rate_hz,
                seconds,
                cost.predicted,
                cost.limit,
                kind=kind,
                native=options.native,
                threads=options.threads,
                pause_limit_seconds=pause,
                memory_limit_bytes=self._memory_limit_bytes(),
                stands_for_siblings=stands,
            )
        )


def _advice(rate_hz: int) -> str:
    return f"ask for {rate_hz} Hz or less" if rate_hz > 0 else "no rate fits now, ask again later"
