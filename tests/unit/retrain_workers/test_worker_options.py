"""Kinds of jobs that a worker takes, as settings and options name them."""

from pathlib import Path

import pytest

from online_models.contracts.jobs import JobKind
from online_models.errors import SettingsError
from retrain_workers.__main__ import main
from retrain_workers.app import terms_of
from retrain_workers.machine_memory import machine_memory
from retrain_workers.settings import WorkerSettings


def configured(folder: Path, text: str) -> WorkerSettings:
    path = folder / "penstock.toml"
    path.write_text(f"[worker]\n{text}\n")
    return WorkerSettings.load(path)


def test_a_worker_takes_all_kinds_unless_it_names_some(tmp_path: Path) -> None:
    assert terms_of(configured(tmp_path, "")).kinds == ()
    named = terms_of(configured(tmp_path, 'types = ["als", "lora"]'))
    assert named.kinds == (JobKind.ALS, JobKind.LORA)


def test_without_a_limit_a_training_may_take_a_share_of_the_memory_and_any_time_of_the_cpu(tmp_path: Path) -> None:
    terms = terms_of(configured(tmp_path, ""))
    assert terms.memory_bytes == int(0.75 * machine_memory()) > 0
    assert terms.budget_cpu_seconds == 0.0
    assert terms_of(configured(tmp_path, "job_memory_bytes = 0")).memory_bytes == 0
    terms = terms_of(configured(tmp_path, "job_memory_bytes = 1_000_000\nbudget_cpu_seconds_per_day = 3600"))
    assert (terms.memory_bytes, terms.budget_cpu_seconds) == (1_000_000, 3_600.0)


def test_a_kind_that_there_is_not_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match=r"types.*'als', 'two_tower' or 'lora'"):
        configured(tmp_path, 'types = ["tarot"]')
    with pytest.raises(SystemExit):
        main(["run", "--types", "als,tarot"])
    assert "expected some of als, two_tower, lora; got 'als,tarot'" in capsys.readouterr().err


def test_a_worker_does_not_run_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert main(["run", "--once"]) == 1
    assert "a worker trains in one process: start it without torchrun" in caplog.text
