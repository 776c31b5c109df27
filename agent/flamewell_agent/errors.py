"""The agent's errors, one small tree.

AgentError                      the agent or one of its commands cannot go on
├── ConfigError                 an option is wrong: exit code 2
├── StateError                  the state directory cannot be used, or another agent uses it
├── UnreadableBatchError        the disk does not give a batch of the spool just now
├── SamplerError                py-spy is not there or does not run
├── ProcessGoneError            the process ended while it was looked at: expected, never logged
├── ProcessUnreadableError      /proc refuses: another user's process, hidepid, yama
├── HeapRefusedError            a heap can't be counted rightly: refused rather than guessed
├── LookHungError               an executable does not answer: its file server is gone
├── OrderError                  a collector gave no usable answer to a poll for orders
├── EndpointError               a pprof endpoint did not answer as it should
├── KubernetesError             the Kubernetes API did not answer as it should
└── ProfileFormatError          bytes that claim to be a pprof profile are not one, or are too much

Foreign errors (OSError, urllib3, protobuf) are translated where they come in.
"""

from __future__ import annotations


class AgentError(Exception):
    """The agent, or one of its commands, cannot go on; the message says what to do."""


class ConfigError(AgentError):
    """An option is unknown, of the wrong type, out of its range, or contradicts another."""


class StateError(AgentError):
    """The state directory cannot be used."""


class UnreadableBatchError(AgentError):
    """A batch of the spool cannot be read just now; nothing says that it is damaged.

    Attributes:
        sequence: Its place in the queue.
    """

    def __init__(self, sequence: int, detail: str) -> None:
        super().__init__(detail)
        self.sequence = sequence


class SamplerError(AgentError):
    """A sampler cannot be started at all."""


class ProcessGoneError(AgentError):
    """The process ended while it was looked at."""


class ProcessUnreadableError(AgentError):
    """What /proc has on a process may not be read."""


class HeapRefusedError(AgentError):
    """The heap of a process can't be counted rightly; the message says why."""


class LookHungError(AgentError):
    """A look at a file did not end in time."""


class _ReasonedError(AgentError):
    """An error with a reason out of a small set, for coverage and metrics.

    Attributes:
        reason: Lower-case words joined by underscores; the set is bounded.
        detail: What was seen, for people.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class OrderError(_ReasonedError):
    """A collector gave no usable answer to a poll for orders."""


class EndpointError(_ReasonedError):
    """A pprof endpoint did not answer as it should."""


class ProfileFormatError(_ReasonedError):
    """Bytes that claim to be a pprof profile are malformed or exceed a limit."""


class KubernetesError(_ReasonedError):
    """The Kubernetes API did not answer as it should.

    Attributes:
        retry_after_seconds: How long it asks to be left alone, 0 where it did not say.
    """

    def __init__(self, reason: str, detail: str = "", *, retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason, detail)
        self.retry_after_seconds = retry_after_seconds
