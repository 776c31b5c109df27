"""The governor: whom to sample, how often and how long, inside the budget.

``decide`` is pure; ``Budget`` and ``Experience`` remember what it needs from cycle to cycle.
"""

from __future__ import annotations

from flamewell_agent.governor.budget import HORIZONS_SECONDS, Budget, stretch
from flamewell_agent.governor.costs import Cost, learn
from flamewell_agent.governor.decision import decide
from flamewell_agent.governor.experience import Experience
from flamewell_agent.governor.inputs import Candidate, Decision, GroupHistory, Inputs, Ordered
from flamewell_agent.governor.reactions import PauseHistory, Setback, reaction, set_back

__all__ = [
    "HORIZONS_SECONDS",
    "Budget",
    "Candidate",
    "Cost",
    "Decision",
    "Experience",
    "GroupHistory",
    "Inputs",
    "Ordered",
    "PauseHistory",
    "Setback",
    "decide",
    "learn",
    "reaction",
    "set_back",
    "stretch",
]
