#!/usr/bin/env bash
# Gets CPython builds that this machine's own Debian release does not have, for tests in containers.
#
#   scripts/interpreters.sh              3.14 and 3.15
#   scripts/interpreters.sh 3.14         those named
#   scripts/interpreters.sh musl         3.11 linked with musl, as on Alpine; compiled
#   scripts/interpreters.sh free-threaded  3.13 without a GIL; compiled
#
# Each becomes a root file system of its own, with its own libc, unpacked and not installed, under
# $XDG_CACHE_HOME/flamewell/interpreters/<version>. It takes half a minute once, and 80 MB each.
# The compiled two take some minutes each, so they are made only when they are asked for by name;
# the one without a GIL runs on this machine's own libc.
# Needs Debian's apt-get and dpkg-deb; packages come from the mirror that apt is configured with.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/flamewell/interpreters"
# Newest last: a stable release keeps a version when the moving ones have dropped it.
suites=(trixie forky sid)

# Prints the mirror of the machine's own Debian archive.
debian_mirror() {
    apt-get indextargets --format "\$(LABEL)|\$(CREATED_BY)|\$(REPO_URI)" |
        awk -F'|' '$1 == "Debian" && $2 == "Packages" { print $3; exit }'
}

# private_apt SUITE COMMAND...: apt with one suite, and nothing of the machine's own state.
private_apt() {
    local suite="$1" command="$2" own="$work/$1"
    shift 2
    "$command" -o Dir::State="$own" -o Dir::State::status="$own/status" \
        -o Dir::Cache="$own/cache" -o Dir::Etc::sourcelist="$own/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferences=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o APT::Sandbox::User=root \
        -o APT::Install-Recommends=false -o Acquire::Languages=none "$@"
}

# read_suite SUITE: fetches its package list; fails where the mirror does not have it.
read_suite() {
    local own="$work/$1"
    [[ -e "$own/read" ]] && return
    mkdir -p "$own/lists/partial" "$own/cache/archives/partial"
    : >"$own/status"
    printf "%s [signed-by=$keyring] $mirror $1 main\n" deb deb-src >"$own/sources.list"
    private_apt "$1" apt-get update -qq >"$own/log" 2>&1 || return 1
    : >"$own/read"
}

# unpack SUITE PACKAGE DIRECTORY
unpack() {
    local suite="$1" package="$2" into="$3" file
    # A root of its own: /lib and the like are links, as on every Debian since bookworm.
    mkdir -p "$into"/{usr/bin,usr/sbin,usr/lib,usr/lib64,proc,sys,dev,tmp,etc,work}
    ln -s usr/bin usr/sbin usr/lib usr/lib64 "$into"
    rm -f "$work/$suite/cache/archives/"*.deb
    private_apt "$suite" apt-get install -qq -y --download-only "$package" >"$work/$suite/log" 2>&1
    for file in "$work/$suite/cache/archives/"*.deb; do
        # By tar: dpkg-deb would put a directory in the place of a link to one.
        dpkg-deb --fsys-tarfile "$file" |
            tar --extract --directory "$into" --keep-directory-symlink --no-same-owner \
                --exclude './usr/share/doc/*' --exclude './usr/share/man/*' \
                --exclude './usr/share/locale/*'
    done
}

# get VERSION: from the first suite that has it.
get() {
    local version="$1" suite
    [[ -x "$cache/$version/usr/bin/python$version" ]] && return
    for suite in "${suites[@]}"; do
        read_suite "$suite" || continue
        private_apt "$suite" apt-cache show "python$version" >/dev/null 2>&1 || continue
        say "Unpacking python$version of $suite ..."
        unpack "$suite" "python$version" "$work/root-$version"
        # Into its place only when it is whole.
        rm -rf "${cache:?}/$version"
        mv "$work/root-$version" "$cache/$version"
        return
    done
    say "python$version is in none of: ${suites[*]}"
    return 1
}

# source_of SUITE PACKAGE DIRECTORY: as its authors released it; no patch of Debian's is asked for.
source_of() {
    local suite="$1" package="$2" into="$3"
    read_suite "$suite"
    mkdir -p "$work/source-$package" "$into"
    (cd "$work/source-$package" &&
        private_apt "$suite" apt-get source -qq --download-only "$package") \
        >"$work/$suite/log" 2>&1
    tar --extract --directory "$into" --strip-components=1 --no-same-owner \
        --file "$(echo "$work/source-$package/"*.orig.tar.[gx]z)"
}

# compile DIRECTORY TARGET CONFIGURE-OPTION...: what it says goes to a file, shown on a failure.
compile() {
    local from="$1" target="$2"
    shift 2
    if ! (cd "$from" && ./configure -q --without-ensurepip --disable-test-modules "$@" &&
        make -s -j"$(nproc)" "$target") >"$from/log" 2>&1; then
        tail -n 15 "$from/log" >&2
        return 1
    fi
}

# copy_library DIRECTORY INTO: the part that is written in Python.
copy_library() {
    mkdir -p "$2"
    tar --create --directory "$1/Lib" --exclude test --exclude tests --exclude idlelib \
        --exclude ensurepip --exclude __pycache__ . | tar --extract --directory "$2"
}

# Alpine's kind of root: musl is the only libc in it.
get_musl() {
    local from="$work/musl" root="$work/root-musl" library=usr/lib/python3.11
    [[ -x "$cache/musl-3.11/usr/bin/python3.11" ]] && return
    command -v musl-gcc >/dev/null || apt_install gcc make musl-tools
    say "Compiling python3.11 with musl (some minutes) ..."
    source_of bookworm python3.11 "$from"
    # musl-gcc is the machine's own compiler, and answers with the machine's own triplet.
    printf '%s\n' '#!/bin/sh' \
        'case " $* " in *print-multiarch*) echo x86_64-linux-musl; exit;; esac' \
        'exec musl-gcc "$@"' >"$from/musl-cc"
    chmod +x "$from/musl-cc"
    # The modules that need other libraries are not built; that is no failure.
    compile "$from" sharedmods --prefix=/usr CC="$from/musl-cc"
    mkdir -p "$root"/{usr/bin,usr/lib,proc,sys,dev,tmp,etc,work} "$root/$library/lib-dynload"
    ln -s usr/bin usr/lib "$root"
    strip -o "$root/usr/bin/python3.11" "$from/python"
    cp /usr/lib/x86_64-linux-musl/libc.so "$root/usr/lib/ld-musl-x86_64.so.1"
    copy_library "$from" "$root/$library"
    cp "$from"/build/lib.*/*.so "$root/$library/lib-dynload"
    rm -rf "$cache/musl-3.11"
    mv "$root" "$cache/musl-3.11"
}

# For a place of its own in a container that has this machine's /usr.
get_free_threaded() {
    local from="$work/free-threaded" prefix="$work/prefix-free-threaded"
    [[ -x "$cache/free-threaded-3.13/bin/python3.13t" ]] && return
    { command -v gcc && command -v make; } >/dev/null || apt_install gcc libc6-dev make
    say "Compiling python3.13 without a GIL (some minutes) ..."
    source_of trixie python3.13 "$from"
    compile "$from" python --prefix=/opt/interpreter --disable-gil
    mkdir -p "$prefix/bin" "$prefix/lib/python3.13t/lib-dynload"
    strip -o "$prefix/bin/python3.13t" "$from/python"
    copy_library "$from" "$prefix/lib/python3.13t"
    rm -rf "$cache/free-threaded-3.13"
    mv "$prefix" "$cache/free-threaded-3.13"
}

for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null ||
        fail "$tool is missing" "These interpreters are Debian's packages, unpacked."
done
mirror="$(debian_mirror)"
[[ -n $mirror ]] || fail "apt is configured with no Debian archive" "apt-get update may help."
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[[ -e $keyring ]] || fail "$keyring is missing" "apt-get install debian-archive-keyring"
mkdir -p "$cache"
work="$(mktemp -d "$cache/.work-XXXXXX")"
trap 'rm -rf "$work"' EXIT
missing=0
for version in "${@:-3.14 3.15}"; do
    # shellcheck disable=SC2086 # without arguments it is a list
    for each in $version; do
        # Not beside || or in an if: there a failure would not end what fails.
        set +e
        (
            set -e
            case "$each" in
                musl) get_musl ;;
                free-threaded) get_free_threaded ;;
                *) get "$each" ;;
            esac
        )
        failed=$?
        set -e
        ((failed == 0)) || missing=1
    done
done
exit "$missing"
