#!/usr/bin/env bash
# Runs go: the one on PATH when it satisfies go.mod's go line, else the one that requirements.lock puts into .venv.
# `tools/go.sh gofmt ...` runs the formatter that belongs to it.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
wanted="$(awk '$1 == "go" { print $2 }' "$root/go.mod")"

# Never fetch a toolchain behind the builder's back, and never join a workspace that lies above the checkout.
export GOTOOLCHAIN=local GOWORK=off
# Without cgo the gateway needs no C compiler and links statically. (go test -race is the one reason to set it.)
export CGO_ENABLED="${CGO_ENABLED:-0}"
# No path and no commit in the binary: one source, one binary, also where git refuses to read the checkout.
export GOFLAGS="-trimpath -buildvcs=false"
case "${1:-}" in
    get | mod) ;; # the two verbs whose work is to change go.mod
    *) GOFLAGS="-mod=readonly $GOFLAGS" ;;
esac
# go keeps counters of its own use beside the user's settings. Move the counters into the checkout and keep the settings.
# (On macOS both lie elsewhere and cannot be parted.)
if [ "$(uname)" != Darwin ]; then
    export GOENV="${GOENV:-${XDG_CONFIG_HOME:-${HOME:-}/.config}/go/env}"
    export XDG_CONFIG_HOME="$root/.build/go-config"
fi

satisfies() {
    local version
    # From / on purpose: inside the module an old go refuses to answer at all.
    version="$(cd / && "$1" env GOVERSION 2>/dev/null)" || return 1
    version="${version%% *}"
    printf '%s\n' "$wanted" "${version#go}" | sort -V -C
}

for go in "$(command -v go || true)" "$root/.venv/bin/go"; do
    if [ -n "$go" ] && satisfies "$go"; then
        if [ "${1:-}" = gofmt ]; then
            exec "$("$go" env GOROOT)/bin/gofmt" "${@:2}"
        fi
        exec "$go" "$@"
    fi
done
echo "tools/go.sh: no Go $wanted or newer on PATH or in .venv; run: tools/bootstrap.sh" >&2
exit 1
