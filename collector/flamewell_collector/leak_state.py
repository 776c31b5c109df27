"""What a leak watch knows, in a file: a restart neither forgets weeks nor alerts anew."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import orjson

from flamewell_collector.analysis.leaks.detector import Detector, Evidence, Verdict
from flamewell_collector.errors import StorageError
from flamewell_collector.leak_readings import Container, Containers

STATE_FILE: Final = "leaks.npz"
_VERSION: Final = 1
_UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError)


@dataclass(slots=True)
class Watched:
    """Everything that is known at one minute.

    Attributes:
        detector: Of all containers.
        containers: Which is where.
        next_minute: The first that was not taken in.
    """

    detector: Detector
    containers: Containers
    next_minute: int


def save(path: Path, watched: Watched) -> None:
    """Write the state; the file is whole or the one before.

    Raises:
        StorageError: It can't be written.
    """
    told = {
        "version": _VERSION,
        "next_minute": watched.next_minute,
        "containers": [
            [list(each.labels), each.place, each.seen, _known(each.limit), each.born]
            for each in watched.containers.by_place.values()
        ],
        "verdicts": {
            str(place): asdict(verdict) for place, verdict in watched.detector.verdicts.items()
        },
    }
    arrays: dict[str, npt.NDArray[np.generic]] = dict(watched.detector.state())
    arrays["told"] = np.frombuffer(orjson.dumps(told), np.uint8)
    unfinished = path.with_suffix(".new")
    try:
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy types keywords as a flag's
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error}") from error


def load(path: Path, detector: Detector) -> Watched | None:
    """Read the state into a new detector; None where there is none.

    Raises:
        StorageError: The file is damaged, or of another version.
    """
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        told = orjson.loads(arrays.pop("told").tobytes())
        if told["version"] != _VERSION:
            raise StorageError(f"{path} is of version {told['version']}, {_VERSION} is read")
        return _watched(detector, arrays, told)
    except FileNotFoundError:
        return None
    except (*_UNREADABLE, BadZipFile) as error:
        raise StorageError(f"{path} is damaged: {error}") from error


def _watched(
    detector: Detector, arrays: Mapping[str, npt.NDArray[np.generic]], told: dict[str, Any]
) -> Watched:
    detector.restore(arrays)
    containers = Containers(detector)
    for labels, place, seen, limit, born in told["containers"]:
        pairs = tuple((name, value) for name, value in labels)
        made = Container(pairs, place, seen, np.nan if limit is None else limit, born)
        containers.note(made)
    containers.places_free()
    for place, verdict in told["verdicts"].items():
        kept = verdict.pop("evidence").items()
        evidence: dict[str, Any] = {
            name: np.nan if value is None else value for name, value in kept
        }
        detector.verdicts[int(place)] = Verdict(**verdict, evidence=Evidence(**evidence))
    return Watched(detector, containers, told["next_minute"])


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
