#!/bin/sh
# Installs tuner from the folder of this script, without a network: sh install.sh [FOLDER]
#
# FOLDER, by default ./tuner-venv, becomes a virtual environment. PYTHON names the interpreter, by default python3.
# A bundle without torch uses the torch of that interpreter.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-tuner-venv}
python=${PYTHON:-python3}

fail() {
    echo "error: $1" >&2
    exit "$2"
}

[ ! -e "$target" ] || fail "$target already exists; name another folder" 2
(cd "$here" && sha256sum --check --quiet SHA256SUMS) || fail "this bundle is damaged; copy it again" 5
version=$(cat "$here/python-version")
"$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" \
    || fail "this bundle is for Python $version; set PYTHON to such an interpreter" 2

"$python" -m venv "$target"
if [ -z "$(find "$here/wheels" -name 'torch-*.whl')" ]; then
    "$python" -c 'import torch, torchvision' \
        || fail "this bundle has no torch, and $python cannot import torch and torchvision" 2
    # Packages in the new environment come first, packages of that interpreter after them. The interpreter may itself
    # belong to a virtual environment.
    "$python" -c 'import sys; print("\n".join(path for path in sys.path if path.endswith("-packages")))' \
        > "$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch-of-the-machine.pth"
fi
"$target/bin/pip" install --quiet --disable-pip-version-check --no-index --find-links "$here/wheels" \
    --constraint "$here/constraints.txt" 'tuner[service,cmaes]'
"$target/bin/tuner" --version
