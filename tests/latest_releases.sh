#!/usr/bin/env bash
# The newest TRL and transformers in a fresh environment: first what vlrl uses of them by name, then the tests of training.
# usage: tests/latest_releases.sh [FOLDER]     (the environment; default: a temporary one, removed afterwards)
# For a schedule, once a day: exit code 0 all is well, 1 something changed; the first failure names it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
env=${1:-$(mktemp -d)}
[ $# -gt 0 ] || trap 'rm -rf "$env"' EXIT
python3 -m venv "$env"
"$env/bin/pip" install -q -e "$root[test]"
"$env/bin/pip" install -q --upgrade --upgrade-strategy eager --no-deps trl transformers accelerate peft
"$env/bin/pip" list 2>/dev/null | grep -iE '^(trl|transformers|accelerate|peft|torch) '
cd "$root"
"$env/bin/python" -m pytest -q -p no:cacheprovider tests/test_trl_surface.py
"$env/bin/python" -m pytest -q -p no:cacheprovider -m 'not slow' tests/test_grpo_*.py tests/test_prefix_*.py tests/test_training_sft.py \
  tests/test_training_checkpoints.py tests/test_episode_runs.py tests/test_distributed.py tests/test_default_run.py
