#!/usr/bin/env bash
# The steps of ../Dockerfile in order, without docker: every RUN as it is written, in folders below FOLDER in place of /opt.
# Then the demo model is trained for two steps, and vLLM is imported. Needs about 20 GB and some minutes; not part of the gate.
# usage: tests/dockerfile_steps.sh FOLDER [train]     train: leave the environment with vLLM out
# As root on Debian and Ubuntu the system's packages are installed too; elsewhere that step is named and left out.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:?usage: tests/dockerfile_steps.sh FOLDER [train]}
only=${2:-all}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

while read -r step words; do
  case "$step $words" in
  "RUN apt-get"*)
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      words=${words%&& rm -rf*} # the lists of this machine stay
    else
      echo "left out: $step $words" && continue
    fi
    ;;
  "RUN "*SERVE*) [ "$only" = train ] && echo "left out: $step $words" && continue ;;
  "ENV PATH="*) words=${words//\/opt\//$folder/} ;;
  "ENV VLRL="*) words=${words//\/opt\//$folder/} ;;
  "COPY . /opt/vlrl")
    echo "== $step $words -> $folder/vlrl"
    rm -rf "$folder/vlrl" && mkdir "$folder/vlrl"
    git -C "$root" ls-files -z | (cd "$root" && tar --null -T - -c) | tar -x -C "$folder/vlrl"
    continue
    ;;
  esac
  case $step in
  ENV | ARG) for setting in $words; do export "${setting%%=*}=$(eval "echo ${setting#*=}")"; done ;;
  RUN)
    echo "== RUN $words"
    bash -ec "$words"
    ;;
  FROM | WORKDIR | CMD | "#"* | "") ;;
  *) echo "no rule for the step: $step $words" >&2 && exit 1 ;;
  esac
done <"$root/Dockerfile"

cd "$folder"
rm -rf run
echo "== vlrl train --task detection --max_steps 2"
HF_HUB_OFFLINE=1 vlrl train --task detection --max_steps 2 --output_dir "$folder/run"
if [ "$only" != train ]; then
  "$SERVE/bin/python" -c 'import torch, vllm; print("vLLM", vllm.__version__, "with torch", torch.__version__)'
  "$SERVE/bin/vlrl" train --task detection --dry_run | tail -n 1
fi
echo "every step of the Dockerfile ran; the image itself was not built"
