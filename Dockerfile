# vlrl on NVIDIA GPUs: one environment to train in, one with vLLM, which needs an older torch (docs/scale.md).
#   docker build -t vlrl . && docker run --gpus all --ipc=host -v "$PWD/runs:/workspace/runs" vlrl vlrl train --task detection
# Every step below is run in order by tests/dockerfile_steps.sh, without docker.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

# git: runs note the commit; compilers: Triton and DeepSpeed build kernels when they first run
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-dev python3-venv build-essential ninja-build git ca-certificates && rm -rf /var/lib/apt/lists/*

ENV VLRL=/opt/vlrl TRAIN=/opt/train SERVE=/opt/serve
COPY . /opt/vlrl

# to train, measure and show: the versions that all tests passed with
RUN python3 -m venv "$TRAIN"
RUN "$TRAIN/bin/pip" install --no-cache-dir -e "$VLRL[deepspeed,demo,data,images]" -c "$VLRL/constraints.txt"
# vLLM, for --use_vllm, `vllm serve` and `bench run --use_vllm`: call /opt/serve/bin/vlrl and /opt/serve/bin/torchrun
RUN python3 -m venv "$SERVE"
RUN "$SERVE/bin/pip" install --no-cache-dir -e "$VLRL[vllm]"

ENV PATH=/opt/train/bin:$PATH
WORKDIR /workspace
CMD ["vlrl", "train", "--help"]
