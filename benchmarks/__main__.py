"""`python -m benchmarks [NAME ...]`: all benchmarks, or the named ones."""

import importlib
import os
import sys
from pathlib import Path

NAMES = ("pipeline", "images", "sensors", "bridge", "cluster")
DATA = Path("../shared/data")


def main() -> None:
    """Run the benchmarks in order; the pipeline needs the real data beside the checkout."""
    for name in sys.argv[1:] or NAMES:
        print(f"== {name}", flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        if name == "pipeline":
            if not DATA.is_dir():
                print(f"{DATA} is not there: get the songs and rankings described in docs/jukebox.md")
                continue
            module.main(DATA)
        elif name == "cluster" and not os.environ.get("KUBECONFIG"):
            print("needs the system in a cluster: export KUBECONFIG=..., see docs/kubernetes.md")
        else:
            module.main()


if __name__ == "__main__":
    main()
