#!/bin/sh
# Installs tuner from the folder that this file lies in, without a network: sh install.sh [FOLDER]
#
# FOLDER, by default ./tuner-venv, becomes a virtual environment. PYTHON names the interpreter, if not python3.
# A bundle that was made without torch uses the torch of that interpreter.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-tuner-venv}
python=${PYTHON:-python3}

fail() {
    echo "error: $1" >&2
    exit "$2"
}

[ ! -e "$target" ] || fail "$target is there already; name another folder" 2
(cd "$here" && sha256sum --check --quiet SHA256SUMS) || fail "this bundle is damaged: copy it again" 5
version=$(cat "$here/python-version")
"$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" \
    || fail "this bundle is for Python $version; set PYTHON to one" 2

"$python" -m venv "$target"
if [ -z "$(find "$here/wheels" -name 'torch-*.whl')" ]; then
    "$python" -c 'import torch, torchvision' \
        || fail "this bundle is without torch, and $python has no torch and torchvision that work" 2
    # What that interpreter has comes after what is installed here; it may be a virtual environment's itself.
    "$python" -c 'import sys; print("\n".join(path for path in sys.path if path.endswith("-packages")))' \
        > "$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch-of-the-machine.pth"
fi
"$target/bin/pip" install --quiet --disable-pip-version-check --no-index --find-links "$here/wheels" \
    --constraint "$here/constraints.txt" 'tuner[service,cmaes]'
"$target/bin/tuner" --version
