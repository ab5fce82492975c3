#!/usr/bin/env bash
# Makes .venv: a suitable Python, every distribution of requirements.lock verified by hash, and this project, editable.
# Writes below the checkout only (.venv, .tools), package managers' caches excepted. Answers at once when nothing has
# changed since the last time; brings a healthy .venv up to date in place and never deletes one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$(pwd -P)"
readonly uv_minimum=0.8.0 # the first with `uv venv --clear`

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }

# Variables that would lead pip or uv away from .venv, whatever shell this was started from.
unset VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV
unset UV_PYTHON UV_SYSTEM_PYTHON UV_TARGET UV_PREFIX
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 # two notices that do not concern us
# uv brings its own list of certificate authorities: take the system's, as pip and go do, and hand on the two settings
# of pip without which a closed network cannot be reached. (UV_NATIVE_TLS is what older versions call UV_SYSTEM_CERTS.)
export UV_SYSTEM_CERTS=true UV_NATIVE_TLS=true
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
[ ! -f "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}" # the largest wheel is 70 MB, and some lines are slow

is_suitable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; }

# Runs each candidate instead of trusting its name: a version manager's shim can be on PATH with nothing behind it.
find_python() {
    local candidate
    for candidate in python3.12 python3.11 python3; do
        if is_suitable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "Tollbook needs Python 3.11 or 3.12; none of python3.12, python3.11, python3 on PATH is one." \
        "Install one (Debian and Ubuntu: apt-get install python3 python3-venv) and run this again."
}

is_recent_uv() {
    local version
    version="$("$1" --version 2>/dev/null | awk '{ print $2 }')"
    [ -n "$version" ] && printf '%s\n' "$uv_minimum" "$version" | sort -V -C
}

find_uv() {
    local candidate
    for candidate in uv .tools/uv/bin/uv; do
        if is_recent_uv "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    install_uv "$1" >&2
    echo .tools/uv/bin/uv
}

# pip --target is allowed on systems whose Python is externally managed (PEP 668), since it installs nothing into it.
install_uv() {
    local python="$1"
    say "installing uv into .tools/uv (its version and hashes come from requirements.lock)"
    rm -rf .tools/uv
    mkdir -p .tools
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        say "$python has no pip; making a small environment that does"
        "$python" -m venv --clear .tools/pip || fail "$python can neither run pip nor make an environment." \
            "Install one of them (Debian and Ubuntu: apt-get install python3-venv) or uv itself, and run this again."
        python=.tools/pip/bin/python
    fi
    sed -n '/^uv==/,/[^\\]$/p' requirements.lock >.tools/uv.txt
    "$python" -m pip install --quiet --no-deps --only-binary :all: --require-hashes --target .tools/uv -r .tools/uv.txt
}

# What .venv was made from, and where: scripts in it name the checkout's path, so a moved checkout starts anew.
made_from="$root $(cat requirements.lock pyproject.toml tools/bootstrap.sh | cksum)"
recorded="$(cat .venv/.made-from 2>/dev/null || true)"
if is_suitable .venv/bin/python; then
    [ "$recorded" != "$made_from" ] || exit 0
    case "$recorded" in "" | "$root "*) is_healthy=yes ;; esac
fi

python="$(find_python)"
uv="$(find_uv "$python")"
if [ -z "${is_healthy:-}" ]; then
    say "making .venv with $("$python" --version)"
    "$uv" venv --quiet --no-project --no-python-downloads --clear --python "$python" .venv
fi
say "installing what requirements.lock names into .venv (a minute or two the first time)"
# On a terminal uv draws progress; a log has no use for a line per distribution.
"$uv" pip sync $([ -t 2 ] || echo --quiet) --python .venv/bin/python --no-python-downloads --require-hashes --no-build requirements.lock
"$uv" pip install --quiet --python .venv/bin/python --no-python-downloads --no-deps --no-build-isolation --editable .
echo "$made_from" >.venv/.made-from
say "done"
