"""``python -m qat_plugin.demo DATA_DIR [--full] [--allow_other_versions]`` fetches the demo's data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qat_plugin.demo.debian import ALLOW_OTHER_VERSIONS
from qat_plugin.demo.fetch import fetch_all
from qat_plugin.errors import QATError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m qat_plugin.demo", description="Fetch the demo's data.")
    parser.add_argument("data_dir", type=Path, help="Folder for the model, the speech and the downloads.")
    parser.add_argument(
        "--full", action="store_true", help="Add English, Spanish, Italian and Russian speech, as make demo-full needs."
    )
    parser.add_argument(
        ALLOW_OTHER_VERSIONS,
        action="store_true",
        help="Take the Debian packages that the archive has where it has none of the pinned versions.",
    )
    options = parser.parse_args(arguments)
    try:
        fetch_all(options.data_dir, full=options.full, allow_other_versions=options.allow_other_versions)
    except QATError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
