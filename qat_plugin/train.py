"""`accelerate launch -m qat_plugin.train RECIPE [--field value ...]`: the training step, on any number of processes."""

from __future__ import annotations

import sys

from qat_plugin.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
