"""`evaluate` modules that load from the package, without a network: `evaluate.load(metric_path())`."""

from pathlib import Path


def metric_path() -> str:
    """Folder of the `qat_wer` module, for `evaluate.load`."""
    return str(Path(__file__).parent / "qat_wer")
