"""Runs one benchmark by its name: `python -m benchmarks NAME [options]`."""

import importlib
import sys
from collections.abc import Sequence
from typing import Final

NAMES: Final = {
    "replay": "a whole `flows replay` of a recorded log: events per second, CPU seconds, memory",
}
"""Benchmark -> what it measures. Each is a module here with `main(arguments) -> exit status`."""


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case [name, *options] if name in NAMES:
            return int(importlib.import_module(f"benchmarks.{name}").main(options))
        case ["-h" | "--help"]:
            print(usage())
            return 0
        case _:
            print(usage(), file=sys.stderr)
            return 2


def usage() -> str:
    listed = "\n".join(f"  {name:10} {what}" for name, what in NAMES.items())
    return (
        "usage: python -m benchmarks NAME [--help | options]\n\n"
        f"{listed}\n\nThe last line printed is one JSON object.\nexample: python -m benchmarks replay --runs 5"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
