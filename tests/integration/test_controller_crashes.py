"""A controller killed before and after each call of a store: its successor comes to the same end as one that was never killed."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Plan
from online_models.stores import postgres as postgres_store
from online_models.stores import redis as redis_store
from online_models.stores.embedded import Endpoints
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.postgres import Database
from online_models.stores.redis import RedisRoutes
from serving_api.rollouts.controller import Controller
from serving_api.rollouts.ramp import ramp
from serving_api.rollouts.route_projection import route_of
from tests.rollout_desk import MINUTE, PACE, PLAN, Desk
from tests.store_fuse import Fuse, Killed, fused

SHORT = Plan(ramp((50,), 200, 0.1, PACE), PLAN.policy)
"""A shadow and one stage: enough for every kind of move."""


@dataclass(frozen=True)
class End:
    """What a story has come to, but for names and epochs."""

    champion_is_canary: bool
    events: tuple[tuple[str, int, int], ...]
    route_is_of_the_rows: bool


@dataclass
class Story:
    """A controller on stores that break off, and the successor of each that was killed."""

    desk: Desk
    fuse: Fuse
    controller: Controller = field(init=False)

    def __post_init__(self) -> None:
        self.controller = self._new()

    def _new(self) -> Controller:
        return self.desk.build("one of many", self.desk.database, lambda stores: fused(stores, self.fuse))

    def tick(self) -> None:
        """One tick and one look; by a successor, when the controller is killed in them."""
        for work in ("tick", "look"):
            try:
                getattr(self.controller, work)()
            except Killed:
                self.controller = self._new()
                self.controller.tick()
                self.controller.look()

    def end(self) -> End:
        desk = self.desk
        rollout, champion = desk.latest(), desk.rollouts.champion_epoch(desk.model)
        assert champion is not None
        return End(
            champion[0] == rollout.canary,
            tuple(desk.events()),
            desk.routes.route(desk.model) == route_of(*champion, rollout),
        )


def promoted(story: Story) -> None:
    """A first version is adopted, and a good candidate replaces it."""
    desk, canary = story.desk, _readied(story)
    for _ in SHORT.stages:
        desk.count(canary_rate=0.21, stable_rate=0.20)
        desk.now += 2 * MINUTE
        _ready(story, canary)


def broken(story: Story) -> None:
    """A candidate that fails requests is taken off at a look, and the next one supersedes nothing."""
    _readied(story)
    story.desk.serve("canary", 40, errors=40)
    story.tick()


def superseded(story: Story) -> None:
    """A candidate is overtaken by a younger one, whose rollout is the last."""
    _begun(story)
    story.desk.publish(3)
    story.tick()
    story.tick()


def _begun(story: Story) -> ModelVersion:
    """A first version and a candidate for its place."""
    story.desk.publish(1)
    story.tick()
    canary = story.desk.publish(2)
    story.tick()
    return canary


def _readied(story: Story) -> ModelVersion:
    """The same, and a reader holds the candidate."""
    canary = _begun(story)
    _ready(story, canary)
    return canary


def _ready(story: Story, canary: ModelVersion) -> None:
    story.desk.say(canary)
    story.tick()


ENDS: dict[Callable[[Story], None], tuple[tuple[str, int, int], ...]] = {
    promoted: (
        ("preparing", -1, 0), ("ramping", 0, 0), ("ramping", 1, 5_000), ("promoted", 1, FULL_WEIGHT_BP),
    ),
    broken: (("preparing", -1, 0), ("ramping", 0, 0), ("rolled_back", 0, 0)),
    superseded: (("preparing", -1, 0),),
}  # fmt: skip


@pytest.fixture
def told(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Callable[[Callable[[Story], None], str, Fuse], Story]]:
    """Tells a story of a model of its own, with a fuse."""
    client = redis_store.connect(fresh_stores.redis_url)
    with closing(client), closing(postgres_store.connect(fresh_stores.postgres_dsn)) as database:
        yield lambda plot, name, fuse: _tell(plot, ModelName(name), fuse, database, RedisRoutes(client), tmp_path)


def _tell(
    plot: Callable[[Story], None], model: ModelName, fuse: Fuse, database: Database, routes: RedisRoutes, home: Path
) -> Story:
    desk = Desk(database, routes, FilesystemArtifacts(home / "artifacts"), model, SHORT)
    story = Story(desk, fuse)
    plot(story)
    return story


@pytest.mark.parametrize("plot", ENDS, ids=lambda plot: plot.__name__)
def test_a_controller_killed_at_any_step_has_a_successor_that_comes_to_the_same_end(
    plot: Callable[[Story], None], told: Callable[[Callable[[Story], None], str, Fuse], Story]
) -> None:
    unharmed = told(plot, "unharmed", Fuse())
    expected = unharmed.end()
    assert (expected.events, expected.route_is_of_the_rows) == (ENDS[plot], True)
    calls = unharmed.fuse.calls
    assert calls > 20
    different = []
    for call in range(1, calls + 1):
        for after in (False, True):
            fuse = Fuse(call, after=after)
            story = told(plot, f"killed-{call}-{'after' if after else 'before'}", fuse)
            assert fuse.blown
            if story.end() != expected:
                different.append((fuse, story.end()))
    assert different == []
