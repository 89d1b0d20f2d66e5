"""The smoke test of a finished artifact: the reader's own code loads and asks it, in a process of its own, under a time limit.

- Training shares no code with serving: it runs the command `python -m serving_api smoke` and reads the line that this prints.
- Whatever the child does, it ends: a time-out, a crash and an answer that cannot be read are failed checks with their reason.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from online_models.contracts.ids import ModelName
from online_models.contracts.smoke import SmokeFigures, decode_smoke
from retrain_workers.validation.gate import Check, Gate

COMMAND: Final = (sys.executable, "-m", "serving_api", "smoke")
_ERROR_LENGTH: Final = 500


@dataclass(frozen=True, slots=True)
class Smoked:
    """What came of a smoke test: the figures, or why there are none."""

    figures: SmokeFigures | None
    failure: str = ""


def smoke(
    artifact: Path,
    model: ModelName,
    limit_seconds: float,
    requests: int = 1_000,
    command: Sequence[str] = COMMAND,
) -> Smoked:
    """Have an artifact (`<root>/<model>/<version>`) loaded and asked by the reader's code; never raises for what the child does.

    limit_seconds : wall time after which the child is killed
    """
    asked = [*command, str(model), str(artifact), "--requests", str(requests)]
    try:
        done = subprocess.run(asked, capture_output=True, check=False, timeout=limit_seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return Smoked(None, f"not finished in {limit_seconds:g} s")
    except OSError as error:
        return Smoked(None, f"cannot be started: {error}")
    try:
        return Smoked(decode_smoke(done.stdout))
    except msgspec.DecodeError:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][-_ERROR_LENGTH:]
        return Smoked(None, f"exit status {done.returncode}: {said or 'nothing was said'}")


def smoke_checks(smoked: Smoked, gate: Gate) -> list[Check]:
    """The rows of a report: that it loads and answers, and how quickly, one request at a time and several at once."""
    found = smoked.figures
    if found is None:
        return [Check("smoke", None, None, False, f"smoke test: {smoked.failure}")]
    bad = found.errors + found.empty + found.wrong
    told = f": {found.first_error}" if found.first_error else ""
    answers = (
        f"smoke test: {found.errors} errors, {found.empty} empty and {found.wrong} wrong lists in "
        f"{found.requests} requests{told}"
    )
    alone = f"smoke test: p99 {found.p99_ms:.1f} ms one request at a time, at most {gate.request_ms:g} allowed"
    busy_limit = gate.request_ms * found.clients
    busy = (
        f"smoke test: p99 {found.busy_p99_ms:.1f} ms of {found.clients} at once, at most {busy_limit:g} allowed, "
        f"{found.requests_per_second:.0f} requests/s"
    )
    memory = f"smoke test: loaded in {found.load_seconds:.1f} s, {found.rss_bytes / 2**20:.0f} MiB"
    return [
        Check("smoke", float(bad), 0.0, bad == 0, answers),
        Check("latency", found.p99_ms, gate.request_ms, found.p99_ms <= gate.request_ms, alone),
        Check("load", found.busy_p99_ms, busy_limit, found.busy_p99_ms <= busy_limit, busy),
        Check("memory", float(found.rss_bytes), None, True, memory),
    ]
