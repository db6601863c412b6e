"""`python -m benchmarks [NAME ...]`: all benchmarks, or the named ones."""

import importlib
import os
import sys
from pathlib import Path

NAMES = ("pipeline", "images", "sensors", "bridge", "cluster")
DATA = Path("../shared/data")


def main() -> None:
    """Run the benchmarks in order; `pipeline` needs the real data next to the checkout."""
    for name in sys.argv[1:] or NAMES:
        print(f"== {name}", flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        if name == "pipeline":
            if not DATA.is_dir():
                print(f"{DATA} does not exist: put the songs and rankings described in docs/jukebox.md there")
                continue
            module.main(DATA)
        elif name == "cluster" and not os.environ.get("KUBECONFIG"):
            print("skipped, needs the system in a cluster: export KUBECONFIG=..., see docs/kubernetes.md")
        else:
            module.main()


if __name__ == "__main__":
    main()
