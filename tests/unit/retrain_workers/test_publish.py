"""Which code a version says that it was made by."""

from pathlib import Path

import pytest

from retrain_workers.publish import commit_of

COMMIT = "4ddbd67c0ffee0000000000000000000000000aa"


@pytest.mark.parametrize(
    "files",
    [
        {"HEAD": "ref: refs/heads/main\n", "refs/heads/main": f"{COMMIT}\n"},
        {
            "HEAD": "ref: refs/heads/main\n",
            "packed-refs": f"# pack-refs\n{'0' * 40} refs/tags/main\n{COMMIT} refs/heads/main\n",
        },
        {"HEAD": f"{COMMIT}\n"},
    ],
    ids=["branch", "packed", "detached"],
)
def test_the_commit_of_a_working_tree_is_found_however_it_is_kept(tmp_path: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert commit_of(tmp_path) == COMMIT


@pytest.mark.parametrize(
    "files", [{}, {"HEAD": "ref: refs/heads/main"}, {"HEAD": "ref: refs/heads/main", "packed-refs": ""}]
)
def test_without_a_commit_there_is_none(tmp_path: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert commit_of(tmp_path / "nowhere") == commit_of(tmp_path) == ""
