# Sourced: `wq` is whisperq for scripts that call it often. One process imports everything once, and forks for each
# command (preloaded.py). What commands print goes to $log, and the end of it is shown when one fails.
# shellcheck shell=bash

_preloaded="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/preloaded.py"
log="${log:-$PWD/log.txt}"
_socket="$(mktemp -u "${TMPDIR:-/tmp}/whisperq-XXXXXX")"
coproc _server { exec python "$_preloaded" serve "$_socket"; }
_server_pid="$_server_PID" # which bash forgets when the server ends
read -r _ready <&"${_server[0]}"
trap 'kill "$_server_pid" 2>/dev/null; rm -f "$_socket"' EXIT

wq() {
    echo "$(basename "$(dirname "$WHISPERQ_RUN")")/$(basename "$WHISPERQ_RUN"): whisperq $*" >&2
    python -S "$_preloaded" call "$_socket" "$@" >>"$log" 2>&1 || {
        local code=$?
        tail -n 5 "$log" >&2
        return "$code"
    }
}
