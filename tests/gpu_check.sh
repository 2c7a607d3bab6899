#!/usr/bin/env bash
# What only a GPU shows, in at most ten minutes: kernels equal the dense mask, a step in the shared layout equals TRL's, how fast
# and how large real steps of a model of Qwen2.5-VL-3B's shape are with each attention, beside the estimate of memory; and vLLM
# with sleep mode where it is installed. Random weights: nothing is downloaded.
# usage: tests/gpu_check.sh FOLDER          writes FOLDER/table.md and the files it was made of
#        MODEL=tiny tests/gpu_check.sh FOLDER    the same steps with the demo model, also on a CPU, to try the script out
# Exit code: 0 all ran and was equal, 1 something failed (the table says what), 77 no GPU (with MODEL unset).
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:?usage: tests/gpu_check.sh FOLDER}
mkdir -p "$out" && out=$(cd "$out" && pwd) && cd "$root"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
device=$(python -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")')
model=${MODEL:-qwen2.5-vl-3b-random}
if [ -z "$device" ] && [ "$model" != tiny ]; then
  echo "not run: no CUDA device" && exit 77
fi
sizes=(--image_size 896 --completion_tokens 128 --group 8 --prompts 1)
slower=1
[ "$model" = tiny ] && sizes=(--completion_tokens 8 --group 4 --prompts 1) && slower=6
failed=0
started=$SECONDS
printf '| what | seconds | result |\n|---|---|---|\n' >"$out/table.md"

part() { # part NAME LIMIT COMMAND...: runs a command within LIMIT seconds, its output in a file, its last line in the table
  local name=$1 limit=$(($2 * slower)) began=$SECONDS code=0
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  local last
  last=$(grep -v '^ *$' "$out/$name.log" | tail -n 1 | tr '|' '/' | cut -c 1-160)
  [ "$code" = 124 ] && last="stopped after $limit s"
  if [ "$code" = 0 ]; then last="done: $last"; else last="FAILED ($code): $last" && failed=1; fi
  echo "| $name | $((SECONDS - began)) | $last |" | tee -a "$out/table.md"
}

part kernels 90 python -m pytest -q -n 0 -p no:cacheprovider --disable-warnings tests/test_prefix_attention.py
part equal 120 python -m vlrl.bench speed --model "$model" "${sizes[@]}" --check_only --out "$out/equal.json"
part speed 200 python -m vlrl.bench speed --model "$model" "${sizes[@]}" --repeats 2 --out "$out/speed.json"
if [ "$model" != tiny ]; then # of a model so small a process' own memory is the larger part
  part memory 80 python -m vlrl.bench speed --what memory --model "$model" "${sizes[@]}" --json "$out/memory.json"
fi
kernels=(gather flex)
[ -z "$device" ] && kernels=(mask)
for kernel in "${kernels[@]}"; do
  part "speed_$kernel" 80 python -m vlrl.bench speed --model "$model" "${sizes[@]}" --repeats 2 --side vlrl --kernel "$kernel" \
    --out "$out/speed_$kernel.json"
done
if python -c 'import vllm' 2>/dev/null; then
  sleep_mode=(--vllm_enable_sleep_mode)
  [ -z "$device" ] && sleep_mode=()
  part vllm 120 python vlrl/train.py --task detection --model_name_or_path tiny --max_steps 2 --use_vllm --vllm_mode colocate \
    "${sleep_mode[@]}" --eval_limit 4 --report_to none --output_dir "$out/vllm"
else
  echo "| vllm | 0 | not run: vLLM is not installed |" | tee -a "$out/table.md"
fi
python "$root/tests/gpu_table.py" "$out" "${device:-CPU}" >>"$out/table.md" || failed=1
cat "$out/table.md"
echo "$((SECONDS - started)) s"
exit "$failed"
