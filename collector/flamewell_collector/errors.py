"""Everything that the collector raises on purpose.

::

    CollectorError
    ├── InvalidRequest          400  malformed or invalid; the message says what to do
    │   ├── NotFound            404
    │   ├── Forbidden           403  it is switched off, or not this client's to do
    │   ├── Conflict            409  it is in another state by now
    │   ├── QueryError          400  a question is malformed
    │   │   └── SelectorError        a label selector cannot be read; says where
    │   ├── ProfileRejected         one profile of a request is not taken; has a reason
    │   ├── RequestTimeout      408  the body did not come whole
    │   ├── LengthRequired      411
    │   ├── TooLarge            413
    │   └── UnsupportedMediaType  415
    ├── Overloaded              429  try again later
    │   └── RateLimited              a tenant sends more than it may
    ├── ConfigError             an option is wrong: exit code 2
    ├── QueryTimeoutError       503  a question took longer than it may
    ├── EngineUnavailable       503  the distributed query engine can't be reached
    └── StorageError
        ├── StaleBatch               what a batch leaves out is in another log file
        ├── Superseded               another collector has changed what a change was about
        └── StorageUnavailable  503  full or read-only disk, store out of reach; reads go on
            ├── LogTaken             another collector has taken over the log of this one
            └── InDoubt              a change of the catalog was perhaps written
"""

from __future__ import annotations


class CollectorError(Exception):
    """Base of the tree."""


class InvalidRequest(CollectorError):
    """The request can't be served as it is; trying again does not help."""


class NotFound(InvalidRequest):
    """There is no such thing."""


class Forbidden(InvalidRequest):
    """It may not be done here."""


class Conflict(InvalidRequest):
    """What it is about is in another state by now."""


class ProfileRejected(InvalidRequest):
    """One profile of a request is not taken; the others are.

    Attributes:
        reason: A short word for it, as in the ``reason`` label of the discard metrics.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RequestTimeout(InvalidRequest):
    """The body did not come whole; sending it again may help."""


class LengthRequired(InvalidRequest):
    """The body has no length."""


class TooLarge(InvalidRequest):
    """The body is above a limit."""


class UnsupportedMediaType(InvalidRequest):
    """Content type or encoding that is not spoken here."""


class Overloaded(CollectorError):
    """Too much at once.

    Attributes:
        retry_after_seconds: When to come again.
    """

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RateLimited(Overloaded):
    """A tenant sends more than it may."""


class StorageError(CollectorError):
    """Something on disk is not as it should be."""


class StaleBatch(StorageError):
    """A batch leaves out stacks that are not in the current log file: decode it again."""


class StorageUnavailable(StorageError):
    """Nothing can be written for now.

    Attributes:
        retry_after_seconds: When to come again.
    """

    def __init__(self, message: str, *, retry_after_seconds: int = 10) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Superseded(StorageError):
    """Another collector has changed what a change was about; nothing of it counts."""


class LogTaken(StorageUnavailable):
    """Another collector has taken over the log of this one, which had fallen silent."""


class InDoubt(StorageUnavailable):
    """A change was perhaps written; committing it once more finds out."""


class ConfigError(CollectorError):
    """An option is unknown, of the wrong type, out of its range, or contradicts another."""


class QueryError(InvalidRequest):
    """A question is malformed."""


class SelectorError(QueryError):
    """A label selector cannot be read.

    Attributes:
        position: 1-based character at which reading stopped.
    """

    def __init__(self, message: str, *, position: int) -> None:
        super().__init__(message)
        self.position = position


class QueryTimeoutError(CollectorError):
    """A question took longer than it may."""


class EngineUnavailable(CollectorError):
    """The distributed query engine can't be reached; what is sent in is still taken."""
