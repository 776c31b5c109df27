"""Containers for tests, and a sampler outside of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from containers import runc
from containers.rootfs import Interpreter, any_interpreter

from flamewell_agent.samplers.pyspy import PySpy, find_py_spy

Start = Callable[..., runc.Running]


@pytest.fixture(scope="session", autouse=True)
def _containers_work_here(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip all, with the reason, where no container can be run."""
    reason = runc.why_not()
    if not reason:
        try:
            interpreter = any_interpreter()
            with runc.container(tmp_path_factory.mktemp("trial"), interpreter, ["--version"]):
                pass
        except (runc.RuncError, LookupError) as error:
            reason = f"runc can run nothing here: {error}"
    if reason:
        pytest.skip(reason)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start containers; none is left after the test.

    Their directories are not below pytest's own, which no other user may enter.
    """
    with ExitStack() as stack:
        # A socket of runc's must not have a long path.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fw-")))
        directory.chmod(0o755)

        def one(interpreter: Interpreter, *arguments: str, **options: object) -> runc.Running:
            return stack.enter_context(
                runc.container(directory, interpreter, arguments, **options)  # type: ignore[arg-type]
            )

        yield one


@pytest.fixture
def spy(tmp_path: Path) -> PySpy:
    return PySpy(find_py_spy(), tmp_path / "work")


@pytest.fixture
def interpreter() -> Interpreter:
    return any_interpreter()


@pytest.fixture
def until() -> Callable[..., object]:
    """Poll until something is true; gives it."""

    def wait(condition: Callable[[], object], *, seconds: float = 20, what: str = "it") -> object:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s for {what}")
            time.sleep(0.02)
        return value

    return wait
