"""The commands on model versions: what they say of real ones, and what they answer to names that mean nothing."""

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from online_models.contracts.artifacts import DataWindow, Manifest
from online_models.contracts.features import DEFAULT_FEATURES
from online_models.contracts.ids import JobId, ModelName, ModelVersion
from online_models.contracts.jobs import Cost, NewJob, TrainAls
from online_models.contracts.registry import Alias, Origin
from online_models.contracts.rollouts import Phase
from online_models.errors import ArtifactError, StoreError
from online_models.rollout_store import Act
from online_models.settings import StoreSettings
from online_models.stores.embedded import Endpoints
from retrain_workers import __main__ as program
from retrain_workers.als import AlsTrainer
from retrain_workers.app import Stores, connected
from retrain_workers.attempt import Unwatched
from retrain_workers.data.datasets import dataset_of
from retrain_workers.data.references import reference_sketches
from retrain_workers.data.training_data import TrainingData
from retrain_workers.model_commands import Bench, add_arguments
from retrain_workers.publish import publish_candidate
from retrain_workers.registry.models import diff_lines, list_lines, psi_between, record_of, show_lines
from retrain_workers.reports.head_to_head import HeadToHead, lines_of
from retrain_workers.settings import WorkerSettings
from retrain_workers.validation.intervals import Interval
from tests.clustered_world import HOUR_MS, START_MS, as_batch, as_interactions, clustered_events
from tests.samples import MOVIES, SHA256, canary, manifest
from tests.tracking_server import tracking_server

ALS = TrainAls(factors=8, iterations=4, half_life_days=60.0)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
EVENTS = clustered_events(1)


@dataclass(frozen=True)
class Shelf:
    """Two trained versions of one model: v1 is `previous`, v2 `champion`; the last 500 events came after both."""

    bench: Bench
    first: ModelVersion
    second: ModelVersion

    def __call__(self, command: str) -> list[str]:
        """The lines that a command answers with."""
        parser = argparse.ArgumentParser(exit_on_error=False)
        add_arguments(parser)
        options = parser.parse_args(command.split())
        lines: list[str] = options.answer(options, self.bench)
        return lines

    def section(self, command: str, head: str) -> list[str]:
        """The lines below one head of an answer."""
        lines = self(command)
        below = lines[next(number for number, line in enumerate(lines) if line.startswith(head)) + 1 :]
        return [line.strip() for line in below[: next((n for n, line in enumerate(below) if line[0] != " "), None)]]


def trained(stores: Stores, events: int, parent: ModelVersion | None, iterations: int) -> Manifest:
    """A version trained on the first events."""
    columns = as_interactions(EVENTS[:events])
    data = TrainingData(dataset_of(columns), columns, {})
    model = AlsTrainer(msgspec.structs.replace(ALS, iterations=iterations), 10.0).fit(data, Unwatched())
    made = msgspec.structs.replace(
        manifest(stores.registry.new_version()),
        hyperparameters=dict(model.hyperparameters),
        metrics={"hit_rate_at_10": 0.25, "ndcg_at_10": events / 10_000},
        data_window=DataWindow(START_MS, START_MS + (events - 1) * HOUR_MS, events, "ab"),
        sketches=reference_sketches(columns, MOVIES, DEFAULT_FEATURES, 60.0),
        parent=parent,
        start="cold",
    )
    return publish_candidate(stores.artifacts, stores.registry, made, model.files(), "test")


@pytest.fixture
def shelf(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Shelf]:
    found = StoreSettings(home=tmp_path, redis_url=fresh_stores.redis_url, postgres_dsn=fresh_stores.postgres_dsn)
    with connected(found) as stores:
        stores.interactions.write([as_batch(EVENTS)])
        first = trained(stores, 700, None, 1).version
        stores.rollouts.adopt(MOVIES, first, "test")
        second = trained(stores, 1_000, first, 4).version
        rollout = stores.rollouts.create(canary(first, second), Act("test", "test", {}))
        promoted = msgspec.structs.replace(rollout, phase=Phase.PROMOTED, stage=3)
        stores.rollouts.transition(rollout, promoted, Act("test", "better", {}))
        yield Shelf(Bench(stores, WorkerSettings(), NOW), first, second)


def test_the_list_tells_aliases_origin_size_figures_and_what_is_kept(shelf: Shelf) -> None:
    name, head, *rows = shelf("list movies")
    assert name == "movies"
    assert head.split() == [
        "version", "aliases", "kind", "start", "parent", "created", "size", "hit@10", "ndcg@10", "cost", "artifact",
    ]  # fmt: skip
    assert [row.split()[:5] for row in rows] == [
        [shelf.first, "previous", "als", "cold", "-"],
        [shelf.second, "champion", "als", "cold", shelf.first],
    ]
    assert [row.split()[-4:] for row in rows] == [["0.2500", "0.0700", "-", "kept"], ["0.2500", "0.1000", "-", "kept"]]
    assert shelf("") == shelf("list") == shelf("list movies")


def test_a_version_made_by_a_job_names_its_trigger_and_cost(shelf: Shelf) -> None:
    stores = shelf.bench.stores
    stores.queue.submit(NewJob(MOVIES, "trigger-7", "psi of genres", ALS))
    job = stores.queue.claim("test", timedelta(seconds=30))
    assert job is not None
    made = msgspec.structs.replace(manifest(f"v{job.token}"), job_id=int(job.id), parent=shelf.second)
    stores.queue.publish(job, made, SHA256)
    record = record_of(stores.registry, MOVIES)
    assert record.origins[job.id].trigger_id == "trigger-7"
    priced = replace(
        record, origins={job.id: msgspec.structs.replace(record.origins[job.id], cost=Cost(5, 12.0, 3.0, 1 << 20))}
    )
    assert "12 CPU s, 3 s, 1 MiB" in list_lines(priced)[-1]
    shown = "\n".join(show_lines(priced, made.version, stores.rollouts))
    assert f"made by   job {job.id}, 12 CPU s, 3 s, 1 MiB" in shown
    assert "trigger   trigger-7: psi of genres" in shown
    assert priced.lineage(made.version) == [made.version, shelf.second, shelf.first]


def test_everything_of_a_version_is_shown_under_its_alias_too(shelf: Shelf) -> None:
    assert shelf("show movies champion") == shelf(f"show movies {shelf.second}")
    ancestors = shelf.section("show movies champion", "lineage")
    assert [line.split()[0] for line in ancestors] == [shelf.second, shelf.first]
    files = shelf.section("show movies champion", "files")
    assert [line.split()[0] for line in files] == ["factors.safetensors", "items.json", "popular.json", "users.json"]
    assert "item_factors float32[100, 8]" in files[0]
    happened = [line.split()[1] for line in shelf.section("show movies champion", "events")]
    assert happened == ["registered", "challenging", "promoted"]
    (rollout,) = shelf.section("show movies champion", "rollouts")
    assert f"as canary: {shelf.second} over {shelf.first}  canary  promoted  stage 3" in rollout


def test_a_version_is_shown_as_json_that_holds_its_manifest(shelf: Shelf) -> None:
    (line,) = shelf("show movies previous --json")
    known = json.loads(line)
    registered = shelf.bench.stores.registry.version(MOVIES, shelf.first)
    assert registered is not None
    assert msgspec.convert(known["manifest"], Manifest) == registered.manifest
    assert known["aliases"] == [Alias.PREVIOUS]
    assert known["lineage"] == [shelf.first]
    assert (known["origin"], known["collected_at"]) == (None, None)
    assert [event["happening"] for event in known["events"]] == ["registered", "adopted", "replaced"]
    assert [rollout["canary"] for rollout in known["rollouts"]] == [shelf.second]


def test_two_versions_differ_in_settings_figures_data_files_and_features(shelf: Shelf) -> None:
    command = "diff movies previous champion"
    assert shelf.section(command, "made as") == [f"parent  - -> {shelf.first}"]
    assert "iterations  1 -> 4" in shelf.section(command, "hyperparameters")
    assert shelf.section(command, "metrics") == ["ndcg_at_10  0.07 -> 0.1  +0.03"]
    assert "events  700 -> 1000" in shelf.section(command, "data")
    assert "items.json  the same" not in shelf.section(command, "files")[0]
    (genres,) = [line for line in shelf.section(command, "features") if line.startswith("genres")]
    assert float(genres.split()[1]) < 0.05


def test_a_version_differs_from_itself_in_nothing(shelf: Shelf) -> None:
    lines = diff_lines(record_of(shelf.bench.stores.registry, MOVIES), shelf.first, shelf.first)
    named = [line.strip() for line in lines if line.startswith("  ")]
    assert {line.split()[-1] for line in named} == {"-", "same", "0.0000", "events"}


def test_features_of_another_population_have_a_large_psi(shelf: Shelf) -> None:
    here = as_interactions(EVENTS)
    elsewhere = as_interactions(clustered_events(2, loyalty=0.0, grouping=[0] * 100))
    before, after = (reference_sketches(events, MOVIES, DEFAULT_FEATURES, 60.0) for events in (here, elsewhere))
    moved = {old.feature.name: psi_between(old, new) for old, new in zip(before, after, strict=True)}
    assert moved["genres"] is not None
    assert moved["genres"] > 1
    assert moved["rating"] is None


def test_two_versions_are_ranked_on_the_events_after_both(shelf: Shelf) -> None:
    name, head, columns, *rows, verdict = shelf("compare movies previous champion")
    assert name == MOVIES
    assert head.endswith(f"users on events since {START_MS + 1_350 * HOUR_MS} ms")
    assert columns.split() == [shelf.first, shelf.second, "gain"]
    assert {row.split()[0] for row in rows} >= {"hit_rate_at_10", "ndcg_at_10"}
    assert f"NDCG@10 of {shelf.second} over {shelf.first}: " in verdict


def test_a_version_is_no_better_than_itself(shelf: Shelf) -> None:
    assert shelf("compare movies champion champion")[-1].endswith("no difference shown")


def test_the_way_of_comparing_can_be_replaced(shelf: Shelf) -> None:
    figures = {"ndcg_at_10": 0.5}
    found = HeadToHead(30, 0, True, figures, figures, Interval(0.2, 0.1, 0.3, 30))
    other = Shelf(replace(shelf.bench, compare=lambda *_: found), shelf.first, shelf.second)
    lines = other("compare movies previous champion")
    assert lines == [MOVIES, *lines_of(shelf.first, shelf.second, found)]


def test_garbage_is_named_and_then_removed(shelf: Shelf) -> None:
    third = trained(shelf.bench.stores, 1_100, shelf.second, 1).version
    rollout = shelf.bench.stores.rollouts.create(canary(shelf.second, third), Act("test", "test", {}))
    shelf.bench.stores.rollouts.transition(
        rollout, msgspec.structs.replace(rollout, phase=Phase.ROLLED_BACK), Act("test", "worse", {})
    )
    later = Shelf(replace(shelf.bench, now=datetime.now(UTC) + timedelta(hours=2)), shelf.first, shelf.second)
    assert later("gc") == ["nothing to collect"]
    assert later("gc movies --dry-run --grace-seconds 3600") == [f"movies {third}: would be collected"]
    assert later("gc --grace-seconds 3600") == [f"movies {third}: was collected"]
    assert not shelf.bench.stores.artifacts.path(MOVIES, third).exists()
    assert shelf("list movies")[-1].endswith("collected")
    for command in (f"compare movies champion {third}", f"compare movies {third} champion"):
        with pytest.raises(StoreError, match=f"movies {third}: expected a kept artifact, but it was collected at"):
            shelf(command)


def test_an_artifact_that_was_never_registered_goes_too(shelf: Shelf) -> None:
    stores = shelf.bench.stores
    left = msgspec.structs.replace(manifest("v0"), files=[])
    stores.artifacts.write(left, {})
    later = Shelf(replace(shelf.bench, now=datetime.now(UTC) + timedelta(days=2)), shelf.first, shelf.second)
    newest = trained(stores, 1_100, shelf.second, 1).version  # an orphan is older than that
    assert later("gc --dry-run") == ["movies v0: would be removed, it was never registered"]
    assert later("gc") == ["movies v0: was removed, it was never registered"]
    assert not stores.artifacts.path(MOVIES, ModelVersion("v0")).exists()
    assert stores.artifacts.path(MOVIES, newest).exists()


def killed_in_writing(stores: Stores, version: str) -> Path:
    """What a worker leaves that is killed as it writes."""
    left = stores.artifacts.path(MOVIES, ModelVersion(version)).with_name(f".writing-{version}-1-aa")
    left.mkdir()
    (left / "items.json").write_bytes(b"[")
    return left


def test_without_grace_what_killed_workers_left_goes_at_once(shelf: Shelf) -> None:
    stores = shelf.bench.stores
    stores.artifacts.write(msgspec.structs.replace(manifest("v0"), files=[]), {})
    left = killed_in_writing(stores, "v7")
    trained(stores, 1_100, shelf.second, 1)
    now = Shelf(replace(shelf.bench, now=datetime.now(UTC) + timedelta(seconds=5)), shelf.first, shelf.second)
    assert now("gc") == now("gc --grace-seconds 3600") == ["nothing to collect"]
    said = [
        "movies v0: {} removed, it was never registered",
        "movies .writing-v7-1-aa: {} removed, it was never finished",
    ]
    assert now("gc --dry-run --grace-seconds 0") == [line.format("would be") for line in said]
    assert left.exists()
    assert now("gc --grace-seconds 0") == [line.format("was") for line in said]
    assert not left.exists()
    assert not stores.artifacts.path(MOVIES, ModelVersion("v0")).exists()
    assert now("gc --grace-seconds 0") == ["nothing to collect"]


def test_collecting_one_model_leaves_what_was_left_of_another(shelf: Shelf) -> None:
    stores, products = shelf.bench.stores, ModelName("products")
    lost = msgspec.structs.replace(manifest("v0", products), files=[])
    stores.artifacts.write(lost, {})
    whole = msgspec.structs.replace(manifest(stores.registry.new_version(), products), files=[])
    publish_candidate(stores.artifacts, stores.registry, whole, {}, "test")
    now = Shelf(replace(shelf.bench, now=datetime.now(UTC) + timedelta(seconds=5)), shelf.first, shelf.second)
    assert now("gc movies --grace-seconds 0") == ["nothing to collect"]
    assert stores.artifacts.path(products, ModelVersion("v0")).exists()
    assert now("gc products --grace-seconds 0") == ["products v0: was removed, it was never registered"]


def test_without_grace_nothing_goes_that_a_job_in_work_may_still_publish(shelf: Shelf) -> None:
    stores = shelf.bench.stores
    stores.queue.submit(NewJob(MOVIES, "trigger-7", "test", ALS))
    job = stores.queue.claim("test", timedelta(milliseconds=1))  # an expired lease is one until it is taken over
    assert job is not None
    made = msgspec.structs.replace(manifest(f"v{job.token}"), files=[])
    written, sha256 = stores.artifacts.write(made, {})
    trained(stores, 1_100, shelf.second, 1)  # overtakes it
    now = Shelf(replace(shelf.bench, now=datetime.now(UTC) + timedelta(seconds=5)), shelf.first, shelf.second)
    assert now("gc --grace-seconds 0") == ["nothing to collect"]
    stores.queue.publish(job, written, sha256)
    stores.artifacts.read(MOVIES, made.version)
    assert now("gc --grace-seconds 0") == ["nothing to collect"]


def test_without_grace_nothing_goes_that_is_about_to_be_registered(shelf: Shelf) -> None:
    stores = shelf.bench.stores
    made = msgspec.structs.replace(manifest(stores.registry.new_version()), files=[])

    def collect() -> list[str]:
        at = datetime.now(UTC) + timedelta(seconds=5)
        return Shelf(replace(shelf.bench, now=at), shelf.first, shelf.second)("gc --grace-seconds 0")

    with stores.artifacts.writing(made, {"a.json": b"[]"}) as (written, sha256):
        trained(stores, 1_100, shelf.second, 1)  # overtakes it
        assert collect() == ["nothing to collect"]
        stores.registry.register(written, sha256, "test")
    stores.artifacts.read(MOVIES, made.version)
    assert collect() == ["nothing to collect"]


def test_versions_are_sent_to_a_mirror_that_is_configured(shelf: Shelf) -> None:
    assert shelf("mirror") == ["no mirror: the setting mlflow_uri is empty"]
    with tracking_server() as (tracked, uri):
        mirrored = replace(shelf.bench, settings=WorkerSettings(mlflow_uri=uri))
        send = Shelf(mirrored, shelf.first, shelf.second)
        assert send("mirror") == ["2 versions sent", "nothing waits for the mirror"]
        assert send("mirror") == ["0 versions sent", "nothing waits for the mirror"]
        assert send("mirror --all") == ["2 versions sent", "nothing waits for the mirror"]
        assert tracked.pointed() == {"champion": shelf.second, "previous": shelf.first}
        tracked.failing = 503
        sent, failed, waiting = send("mirror --all")
    assert sent == "0 versions sent"
    assert failed.startswith("MLflow failed: MLflow: POST experiments/create: 503")
    assert waiting.startswith("movies: ")


def test_a_name_that_means_nothing_is_refused(shelf: Shelf) -> None:
    for command, said in {
        "list cars": "expected a model with a version, got 'cars'; known are movies",
        "show movies v99": "movies: expected a registered version, got 'v99'; registered are v",
        "show movies challenger": "got 'challenger'",
        "diff movies champion v99": "got 'v99'",
        "compare movies champion v99": "got 'v99'",
        "gc cars": "got 'cars'",
    }.items():
        with pytest.raises(StoreError) as raised:
            shelf(command)
        assert said in str(raised.value)


def test_an_artifact_that_is_gone_without_a_collection_cannot_be_compared(shelf: Shelf) -> None:
    shelf.bench.stores.artifacts.discard(MOVIES, shelf.first)
    with pytest.raises(ArtifactError, match=f"movies {shelf.first}: expected a whole artifact"):
        shelf("compare movies previous champion")


def test_lineage_ends_where_a_parent_is_unknown_or_comes_again(shelf: Shelf) -> None:
    record = record_of(shelf.bench.stores.registry, MOVIES)
    found = record.versions[shelf.first]
    orphaned = replace(found, manifest=msgspec.structs.replace(found.manifest, parent=ModelVersion("v0")))
    circular = replace(found, manifest=msgspec.structs.replace(found.manifest, parent=shelf.second))
    for parent in (orphaned, circular):
        line = replace(record, versions={**record.versions, shelf.first: parent}).lineage(shelf.second)
        assert line == [shelf.second, shelf.first]


def test_a_report_compares_kinds_of_models_at_one_cut_and_by_wish_over_time(shelf: Shelf, tmp_path: Path) -> None:
    written = shelf(f"report movies --out {tmp_path / 'report'} --splits sliding")
    assert [Path(path).name for path in written] == [
        "comparison.md", "comparison.json", "comparison.png", "over_time.md", "over_time.json",
    ]  # fmt: skip
    assert all(Path(path).stat().st_size > 0 for path in written)
    title, _, head, *_ = Path(written[3]).read_text().splitlines()
    assert title == "# NDCG@10 over time: movies, sliding histories"
    assert head == "| cut, UTC | events before | users | als | two-tower | boosted trees | popularity |"


def test_the_program_answers_on_standard_output_and_fails_with_1(
    shelf: Shelf,
    fresh_stores: Endpoints,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = tmp_path / "penstock.toml"
    config.write_text(
        f'home = "{tmp_path}"\nredis_url = "{fresh_stores.redis_url}"\npostgres_dsn = "{fresh_stores.postgres_dsn}"\n'
    )
    assert program.main(["--config", str(config), "models"]) == 0
    assert capsys.readouterr().out.splitlines() == shelf("")
    with caplog.at_level(logging.ERROR):
        assert program.main(["--config", str(config), "models", "show", "movies", "v99"]) == 1
    assert "StoreError: movies: expected a registered version" in caplog.text
    assert capsys.readouterr().out == ""


def test_an_origin_without_a_cost_is_an_origin(shelf: Shelf) -> None:
    origin = Origin(JobId(1), "t", "r", NOW, None, None)
    record = replace(record_of(shelf.bench.stores.registry, MOVIES), origins={JobId(1): origin})
    found = record.versions[shelf.first]
    asked = replace(found, manifest=msgspec.structs.replace(found.manifest, job_id=1))
    assert record.origin(asked) == origin
    assert record.origin(found) is None
