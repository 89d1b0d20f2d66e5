"""`python -m benchmarks.failing_api PORT`: the API, in which a version that its manifest marks raises on every request of a user.

The fault is put where a version's own faults would be, in ranking, once the version is loaded, verified and said to be ready.
"""

import sys
from typing import Any, Final

from serving_api import list_maker, ranking, shadow
from serving_api.__main__ import main

FAILS: Final = "fails_on_every_request"
"""The metric in a manifest that marks a version."""


def marked(*arguments: Any, **named: Any) -> ranking.Ranking:
    """`ranking.rank`, unless the version is marked."""
    view = arguments[0]
    if view is not None and FAILS in view.loaded.manifest.metrics:
        raise RuntimeError("a fault that the benchmark put here")
    return ranking.rank(*arguments, **named)


if __name__ == "__main__":
    for module in (list_maker, shadow):
        vars(module)["rank"] = marked
    sys.exit(main(["serve", "--port", sys.argv[1]]))
