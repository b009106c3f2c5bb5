#!/bin/sh
# Install the environment in .venv, and the system libraries of FFCV, as far as they are missing.
#
# A file in .venv/.unmix holds the checksum of the requirements that each step last installed. If
# all are current, the network is not used. PYTHON names the interpreter of the environment.

set -eu
cd "$(dirname "$0")/.."

VENV=.venv
PY=$VENV/bin/python
DONE=$VENV/.unmix

say() { printf 'install: %s\n' "$*"; }
stop() { printf 'install: %s\n' "$*" >&2; exit 1; }

sum() { cat "$@" | sha256sum | cut -d ' ' -f 1; }
is_done() { [ -f "$DONE/$1" ] && [ "$(cat "$DONE/$1")" = "$2" ]; }
mark_done() { printf '%s\n' "$2" >"$DONE/$1"; }

# ---------------------------------------------------------------------------- system packages

# Print the prefix of commands that need root ("" or "sudo -n"); fail if this user cannot be root.
as_root() {
    command -v apt-get >/dev/null 2>&1 || return 1
    [ "$(id -u)" -ne 0 ] || return 0
    sudo -n true >/dev/null 2>&1 || return 1
    printf 'sudo -n '
}

apt_line() { printf 'sudo apt-get update && sudo apt-get install -y --no-install-recommends %s' "$*"; }

# Install the named packages; refresh the package lists only if that fails.
apt_install() {
    prefix=$(as_root) || return 1
    apt="${prefix}env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq"
    say "apt-get install $*"
    # $apt is a command line, which must be split.
    $apt install -y --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    $apt update && $apt install -y --no-install-recommends "$@" >/dev/null
}

# --------------------------------------------------------------------------------- environment

# Requirements pin wheels for 3.11 to 3.14.
suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        suits "$PYTHON" || stop "PYTHON=$PYTHON is not Python 3.11 to 3.14"
        printf '%s' "$PYTHON"
        return
    fi
    for name in python3 python3.13 python3.12 python3.11 python3.14; do
        if suits "$name"; then
            printf '%s' "$name"
            return
        fi
    done
    stop "Python 3.11 to 3.14 is needed, python3 is $(python3 --version 2>&1 || true);" \
        "install one and name it: make install PYTHON=/path/to/python3"
}

make_venv() {
    # Use an existing environment, unless it was moved: then the paths in it are wrong.
    if suits "$PY" && "$PY" -c 'import pip' 2>/dev/null; then
        mkdir -p "$DONE"
        [ -f "$DONE/place" ] || mark_done place "$PWD"
        is_done place "$PWD" && return
    fi
    python=$(find_python)
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        apt_install "$version-venv" ||
            stop "$python cannot create environments; run: $(apt_line "$version-venv")"
    fi
    say "creating $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV"
    mkdir -p "$DONE"
    mark_done place "$PWD"
}

# Print the named packages' lines of requirements.txt, hashes included.
pinned() {
    awk -v names=" $* " '
        /^[a-z]/ { split($1, name, "=="); wanted = index(names, " " name[1] " ") }
        wanted' requirements.txt
}

uv() {
    quiet=--quiet
    [ ! -t 2 ] || quiet=
    "$PY" -m uv pip install $quiet --python "$PY" --compile-bytecode "$@"
}

install_packages() {
    key=$(sum requirements.txt)
    is_done packages "$key" && return
    say "installing the packages of requirements.txt (about 7 GB; minutes if nothing is cached)"
    pinned uv setuptools wheel >"$DONE/bootstrap.txt"
    "$PY" -m pip install -qq --disable-pip-version-check --require-hashes --no-deps \
        -r "$DONE/bootstrap.txt"
    uv --require-hashes --no-deps --no-build-isolation -r requirements.txt
    mark_done packages "$key"
}

install_checkout() {
    key=$(sum pyproject.toml)
    is_done checkout "$key" && return
    uv --no-deps --no-build-isolation --editable .
    mark_done checkout "$key"
}

# ---------------------------------------------------------------------------------------- FFCV

# Print the missing Debian packages that FFCV needs to be built or imported.
missing_for_ffcv() {
    "$PY" -c 'from tools.diagnostics.checks import missing_system_packages as m; print(*m())'
}

ffcv_loads() {
    "$PY" - <<'PYTHON' 2>/dev/null
import ctypes, glob, importlib.util
import cv2
(package,) = importlib.util.find_spec("ffcv").submodule_search_locations
(library,) = glob.glob(package + "/_libffcv*.so")
ctypes.PyDLL(library)
PYTHON
}

without_ffcv() {
    say "FFCV is not installed: $1"
    say "  fix: $2"
    say "  until then 'make train' uses --loader dali; everything else is installed"
}

install_ffcv() {
    key=$(sum requirements-ffcv.txt)
    is_done ffcv "$key" && return
    missing=$(missing_for_ffcv)
    log=$DONE/ffcv.log
    # After a failure, retry only if something has changed; 'make ffcv' always retries.
    if is_done ffcv-failed "$key $missing"; then
        without_ffcv "the last attempt failed${missing:+ to install $missing} (see $log)" 'make ffcv'
        return
    fi
    if [ -n "$missing" ]; then
        # $missing is a list of packages, which must be split.
        if ! as_root >/dev/null; then
            without_ffcv "system packages are missing, and installing them needs root" \
                "$(apt_line $missing)"
            return
        fi
        if ! apt_install $missing; then
            mark_done ffcv-failed "$key $missing"
            without_ffcv "apt-get failed" "$(apt_line $missing) && make ffcv"
            return
        fi
        missing=
    fi
    say "building FFCV (about a minute)"
    build="--require-hashes --no-deps --no-build-isolation -r requirements-ffcv.txt"
    # uv's cached build may be linked to libraries that have changed since: then rebuild.
    if { uv $build && ffcv_loads || uv --no-cache --reinstall $build && ffcv_loads; } >"$log" 2>&1
    then
        mark_done ffcv "$key"
        return
    fi
    tail -n 20 "$log" >&2
    mark_done ffcv-failed "$key $missing"
    without_ffcv "building it failed; the whole output is in $log" \
        "$(apt_line g++ pkg-config libopencv-dev libturbojpeg0-dev libgl1 libglib2.0-0) && make ffcv"
}

make_venv
install_packages
install_checkout
install_ffcv
