"""Settings of the three processes and of the stores: the environment wins, and an unknown key is an error that names it."""

import os
from pathlib import Path

import pytest

from flows.settings import FlowSettings
from online_models.errors import SettingsError
from online_models.settings import Settings, StoreSettings
from retrain_workers.settings import WorkerSettings
from serving_api.settings import ServingSettings

CLASSES: dict[str, tuple[type[Settings], str]] = {
    "flow": (FlowSettings, "window_seconds"),
    "worker": (WorkerSettings, "lease_seconds"),
    "serving": (ServingSettings, "max_body_bytes"),
}
"""Section -> its class, and one of its numbers."""

SECTIONS = list(CLASSES)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without settings."""
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def number(section: str, config: Path | None = None) -> float:
    kind, key = CLASSES[section]
    return float(getattr(kind.load(config), key))


def name_of(section: str) -> str:
    """The environment variable of the section's number."""
    return f"PENSTOCK_{section}_{CLASSES[section][1]}".upper()


def everything(folder: Path) -> Path:
    """A file with one key of every section, and a shared one."""
    sections = [f"[{section}]\n{key} = 77\n" for section, (_, key) in CLASSES.items()]
    path = folder / "penstock.toml"
    path.write_text('redis_url = "redis://shared"\n' + "".join(sections))
    return path


@pytest.mark.parametrize("section", SECTIONS)
def test_without_a_file_and_an_environment_there_are_the_defaults(section: str) -> None:
    kind, key = CLASSES[section]
    assert number(section) == kind.model_fields[key].default
    assert StoreSettings.load().home == Path(".penstock")


@pytest.mark.parametrize("section", SECTIONS)
def test_each_process_reads_its_own_section_of_the_file(section: str, own_folder: Path) -> None:
    everything(own_folder)
    assert number(section) == 77


def test_what_is_outside_the_sections_is_shared(own_folder: Path) -> None:
    everything(own_folder)
    assert StoreSettings.load().redis_url == "redis://shared"


@pytest.mark.parametrize("section", SECTIONS)
def test_the_environment_wins_over_the_file(section: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(own_folder)
    monkeypatch.setenv(name_of(section), "88")
    assert number(section) == 88
    assert [number(other) for other in SECTIONS if other != section] == [77, 77]


def test_the_environment_wins_over_the_file_for_the_stores(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(own_folder)
    monkeypatch.setenv("PENSTOCK_REDIS_URL", "redis://environment")
    assert StoreSettings.load().redis_url == "redis://environment"


@pytest.mark.parametrize("section", SECTIONS)
def test_a_file_elsewhere_may_be_named(
    section: str, own_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = everything(tmp_path_factory.mktemp("elsewhere"))
    assert number(section, other) == 77
    assert not (own_folder / "penstock.toml").exists()


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_in_the_environment_is_named(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = f"PENSTOCK_{section.upper()}_WINDOW_SECOND"
    monkeypatch.setenv(unknown, "1")
    with pytest.raises(SettingsError, match=f"unknown setting {unknown} .*{name_of(section)}"):
        CLASSES[section][0].load()


@pytest.mark.parametrize("name", ["PENSTOCK_REDIS", "PENSTOCK_FLOWS_WINDOW_SECONDS", "PENSTOCK_WINDOW_SECONDS"])
def test_an_unknown_shared_key_in_the_environment_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"unknown setting {name} "):
        StoreSettings.load()


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_in_the_file_is_named(section: str, own_folder: Path) -> None:
    (own_folder / "penstock.toml").write_text(f"[{section}]\nwindow_second = 1\n")
    with pytest.raises(SettingsError, match=rf"(?s)\[{section}\].*window_second\b"):
        CLASSES[section][0].load()


def test_an_unknown_shared_key_in_the_file_is_named(own_folder: Path) -> None:
    (own_folder / "penstock.toml").write_text('redis = "redis://nowhere"\n')
    with pytest.raises(SettingsError, match=r"(?s)\[penstock\].*\bredis\b"):
        StoreSettings.load()


@pytest.mark.parametrize("section", [*SECTIONS, ""])
def test_an_unknown_section_is_named_whichever_process_reads_the_file(section: str, own_folder: Path) -> None:
    (own_folder / "penstock.toml").write_text("[flows]\nwindow_seconds = 1\n")
    kind = CLASSES[section][0] if section else StoreSettings
    with pytest.raises(SettingsError, match="unknown section 'flows'; known are flow, worker, serving"):
        kind.load()


@pytest.mark.parametrize("section", SECTIONS)
def test_a_value_out_of_range_is_named_wherever_it_comes_from(
    section: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, key = CLASSES[section]
    (own_folder / "penstock.toml").write_text(f"[{section}]\n{key} = -1\n")
    with pytest.raises(SettingsError, match=key):
        kind.load()
    monkeypatch.setenv(name_of(section), "many")
    with pytest.raises(SettingsError, match=key):
        kind.load()
    monkeypatch.setenv(name_of(section), "5")  # the file's value is not looked at then
    assert number(section) == 5


def test_a_file_that_is_not_toml_is_named(own_folder: Path) -> None:
    for content in (b"window_seconds: 5\n", b"home = '\xff'\n"):
        (own_folder / "penstock.toml").write_bytes(content)
        with pytest.raises(SettingsError, match=r"penstock\.toml: not valid TOML"):
            FlowSettings.load()


def test_a_wrong_setting_is_told_in_one_line(own_folder: Path) -> None:
    (own_folder / "penstock.toml").write_text("[flow]\nwindow_seconds = -1\nslide_second = 4\n")
    with pytest.raises(SettingsError) as told:
        FlowSettings.load()
    assert "\n" not in str(told.value)
    assert "window_seconds: Input should be greater than 0; slide_second: Extra inputs" in str(told.value)


def test_keys_of_other_processes_disturb_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for section in SECTIONS:
        monkeypatch.setenv(name_of(section), "9")
    monkeypatch.setenv("PENSTOCK_HOME", "/somewhere")
    assert [number(section) for section in SECTIONS] == [9, 9, 9]
    assert StoreSettings.load().home == Path("/somewhere")


def test_the_directories_of_the_stores_are_under_home() -> None:
    settings = StoreSettings(home=Path("/data"))
    assert (settings.artifacts, settings.segments) == (Path("/data/artifacts"), Path("/data/events"))


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_given_by_code_is_an_error_too(section: str) -> None:
    with pytest.raises(ValueError, match="unheard_of"):
        CLASSES[section][0].model_validate({"unheard_of": 1})
