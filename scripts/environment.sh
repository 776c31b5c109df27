# shellcheck shell=bash
# The repository's own virtual environment, for scripts/up and scripts/test, which source this.

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="$repository/.venv"
minimum_python="3.11"

say() { printf '%s\n' "$*" >&2; }

fail() {
    printf '%s: %s\n' "scripts/${0##*/}" "$1" >&2
    shift
    if (($#)); then printf '  %s\n' "$@" >&2; fi
    exit 1
}

# Succeeds for an interpreter that is new enough and has what a virtual environment needs.
python_fits() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' 2>/dev/null
}

# Prints the interpreter to use; $FLAMEWELL_PYTHON names one by hand.
find_python() {
    local candidate
    if [[ -n ${FLAMEWELL_PYTHON:-} ]]; then
        python_fits "$FLAMEWELL_PYTHON" || fail \
            "FLAMEWELL_PYTHON=$FLAMEWELL_PYTHON is not Python $minimum_python or newer"
        printf '%s\n' "$FLAMEWELL_PYTHON"
        return
    fi
    # A name that a pyenv shim answers for may stand for any version, or none: each is tried.
    for candidate in python3.13 python3.12 python3.11 python3.14 python3 python \
        /usr/bin/python3 "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.*/bin/python3; do
        if command -v "$candidate" >/dev/null && python_fits "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python $minimum_python or newer is needed, and none was found" \
        "Debian 12+, Ubuntu 24.04+:  sudo apt-get install python3 python3-venv" \
        "Fedora:                     sudo dnf install python3" \
        "anywhere:                   https://www.python.org/downloads/, or pyenv install 3.13" \
        "Then start again, or name it: FLAMEWELL_PYTHON=/path/to/python3 scripts/${0##*/}"
}

# Installs Debian packages as root; fails where that is not possible.
apt_install() {
    local output
    ((EUID == 0)) && command -v apt-get >/dev/null || return 1
    say "Installing $* with apt-get ..."
    # The package lists of a fresh machine image are empty or old.
    if ! output="$({ apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } 2>&1)"; then
        say "$output"
        return 1
    fi
}

make_venv() {
    local python version
    python="$(find_python)"
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        apt_install "python$version-venv" || fail \
            "$python ($version) cannot make virtual environments: its venv or ensurepip is missing" \
            "Debian, Ubuntu:  sudo apt-get install python$version-venv" \
            "Then start again."
    fi
    say "Making a virtual environment with Python $version in .venv ..."
    rm -rf "$venv"
    "$python" -m venv "$venv"
}

# True if the environment works and belongs to this place: its scripts hold absolute paths.
venv_is_sound() {
    [[ -x "$venv/bin/python" ]] &&
        [[ "$(cat "$venv/.made-in" 2>/dev/null)" == "$repository" ]] &&
        python_fits "$venv/bin/python" &&
        "$venv/bin/python" -c 'import pip' 2>/dev/null
}

ensure_venv() {
    venv_is_sound && return
    make_venv
    printf '%s\n' "$repository" >"$venv/.made-in"
}

# Shows which package pip is at, on one line where there is a terminal.
show_progress() {
    local line
    while IFS= read -r line; do
        if [[ -t 2 && $line =~ ^(Collecting|Downloading|Building|Installing)\ *[^\ ]* ]]; then
            printf '\r\033[K  %.70s' "${line#"${line%%[![:space:]]*}"}" >&2
        fi
    done
    if [[ -t 2 ]]; then printf '\r\033[K' >&2; fi
}

# install_once KEY NAME WHAT...: installs by pip, again only when pyproject.toml has changed.
install_once() {
    local stamp="$venv/.installed-$1" name="$2" log="$venv/install.log" wanted
    shift 2
    wanted="$(cksum <"$repository/pyproject.toml")"
    if [[ "$(cat "$stamp" 2>/dev/null)" == "$wanted" ]]; then return; fi
    say "Installing $name into .venv (once; a minute or two) ..."
    if ! (cd "$repository" && "$venv/bin/python" -m pip install \
        --disable-pip-version-check --no-input --progress-bar off "$@" 2>&1) |
        tee "$log" | show_progress; then
        tail -n 15 "$log" >&2
        fail "pip could not install $name" "The whole log: $log" \
            "Is a package index reachable? (pip config list, https_proxy)"
    fi
    printf '%s\n' "$wanted" >"$stamp"
}
