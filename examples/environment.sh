# Sourced by the set-up scripts: makes a virtual environment in $1 with this checkout, extras $2 (such as [test]),
# in the exact versions of constraints.txt, and puts it on the PATH. Nothing is installed twice.
# PYTHON names the interpreter (3.11 or newer).

environment() {
    local folder=$1 extras=${2:-} root constraints stamp
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    constraints="$root/examples/constraints.txt"
    stamp="$folder/installed-$(cat "$root/pyproject.toml" "$constraints" - <<<"$extras" | cksum | cut -d' ' -f1)"
    if [ ! -f "$stamp" ]; then
        "${PYTHON:-python3}" -m venv "$folder"
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
            --constraint "$constraints" --editable "$root$extras"
        touch "$stamp"
    fi
    export PATH="$folder/bin:$PATH"
}
