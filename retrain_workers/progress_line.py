"""How far jobs are, for people: one line that is rewritten in place on a terminal."""

from datetime import timedelta
from typing import Final, TextIO

from online_models.contracts.jobs import Progress, RetrainJob

ERASE_LINE: Final = "\r\x1b[K"


class ProgressLine:
    """The line of the job that runs now.

    stream : where it stands; nothing is shown on what is no terminal
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream if stream is not None and stream.isatty() else None

    def show(self, job: RetrainJob, progress: Progress) -> None:
        """Replace the line."""
        self._write(f"{ERASE_LINE}job {job.id} of {job.model}: {text_of(progress)}")

    def clear(self) -> None:
        """Leave an empty line."""
        self._write(ERASE_LINE)

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()


def text_of(progress: Progress) -> str:
    """
    >>> text_of(Progress("two_tower", 300, 1200, 0.31234, 75.4))
    'two_tower 300/1200 (25 %) loss 0.3123 eta 0:01:15'
    >>> text_of(Progress("gate")), text_of(Progress("reading", 70))
    ('gate', 'reading 70')
    """
    parts = [progress.phase]
    if progress.total > 0:
        parts.append(f"{progress.done}/{progress.total} ({progress.done / progress.total:.0%})".replace("%", " %"))
    elif progress.done > 0:
        parts.append(f"{progress.done}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4g}")
    if progress.eta_seconds is not None:
        parts.append(f"eta {timedelta(seconds=round(progress.eta_seconds))}")
    return " ".join(parts)
