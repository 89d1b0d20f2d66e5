"""How much memory there is to use: the machine's, or less where this process's control group has a limit.

References
----------
Control Group v2, https://docs.kernel.org/admin-guide/cgroup-v2.html; Memory Resource Controller (v1), ibid., cgroup-v1/memory.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_V2, _V1 = "memory.max", "memory.limit_in_bytes"


def machine_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process and all others of its control group may use together.

    root : where `proc` and `sys` are
    """
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    """The limits of the process's group and of those above it, as far as they can be seen from here."""
    for directory, name in _groups(root):
        with suppress(OSError, ValueError):  # no such group from inside a container; `max` is no limit
            yield int((directory / name).read_text())


def _groups(root: Path) -> Iterator[tuple[Path, str]]:
    """Directories of the groups, each with the name of its file of a limit."""
    mounted = root / "sys/fs/cgroup"
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            base, name = (mounted, _V2) if not controllers else (mounted / "memory", _V1)
            own = PurePosixPath(path.lstrip("/"))
            for group in (own, *own.parents):
                yield base / group, name
