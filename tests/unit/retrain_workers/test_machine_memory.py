"""How much memory there is: the machine's, or what a control group allows, in the two layouts of the kernel."""

import os
from pathlib import Path

import pytest

from retrain_workers.machine_memory import machine_memory

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20
V1_NO_LIMIT = "9223372036854771712"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, PHYSICAL),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, PHYSICAL),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{5 * MIB}\n"}, 5 * MIB),
        (
            {
                "proc/self/cgroup": "0::/pods/one\n",
                "sys/fs/cgroup/pods/one/memory.max": f"{9 * MIB}\n",
                "sys/fs/cgroup/pods/memory.max": f"{7 * MIB}\n",
            },
            7 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/a\n0::/a\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{3 * MIB}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{V1_NO_LIMIT}\n",
            },
            3 * MIB,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/0123\n",  # as the host calls it, which cannot be seen in here
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * MIB}\n",
            },
            2 * MIB,
        ),
        ({"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_NO_LIMIT}, PHYSICAL),
    ],
    ids=["no groups", "v2 without", "v2", "v2 above", "v1", "v1 in a container", "v1 without"],
)
def test_the_lowest_limit_that_can_be_seen_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert machine_memory(tmp_path) == expected


def test_this_machine_has_some() -> None:
    assert 0 < machine_memory() <= PHYSICAL
