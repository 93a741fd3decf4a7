# Finds a Python and has tools/bootstrap.py make .venv ready. Sourced by ./run and ./test,
# with $root (the folder of the checkout) and $purpose (run or test) set.

venv_python="$root/.venv/bin/python"

dumont_python() {
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
        [ -z "${PYTHON:-}" ] || break
    done
    if [ -n "${PYTHON:-}" ]; then
        echo "PYTHON is '$PYTHON', which is not a Python 3.11 or newer. Point it at one, or unset it." >&2
    else
        echo "Dumont Cloud needs Python 3.11 or newer, and none was found. On Debian or Ubuntu: apt install python3 python3-venv. Elsewhere: set PYTHON to one." >&2
    fi
    return 1
}

if ! "$venv_python" -I "$root/tools/bootstrap.py" check "$purpose" 2>/dev/null; then
    base_python=$(dumont_python) || exit 1
    "$base_python" -I "$root/tools/bootstrap.py" make "$purpose" || exit $?
fi
