"""Who answers a request: the version of the user's arm, or one that stands in for it."""

from dataclasses import dataclass

from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import Variant
from serving_api.assignment import Assignment, assigned
from serving_api.reader import ModelState
from serving_api.retrieval import VersionView
from serving_api.served import in_stage


@dataclass(frozen=True, slots=True)
class Choice:
    """Who answers: the version (None: no version is loaded) and the arm it stands for.

    asked : where the user is under the route, whoever answers; None without a route
    """

    served: VersionView | None
    variant: Variant
    asked: Assignment | None = None

    @property
    def version(self) -> ModelVersion | None:
        """Its name."""
        return self.served.loaded.version if self.served else None

    @property
    def language_model(self) -> ModelVersion | None:
        """Under whose name the scores of its language model are kept; None without one."""
        return self.served.loaded.manifest.language_model if self.served else None


def choose(state: ModelState, user_id: str) -> Choice:
    """The version for a user under the pinned route; another loaded one stands in when it is not there."""
    if state.route is None:
        return Choice(_any(state), Variant.FALLBACK)
    asked = assigned(user_id, state.route)
    served = state.versions.get(asked.version)
    if served is not None:
        return Choice(served, asked.variant, asked)
    return Choice(state.versions.get(state.route.stable) or _any(state), Variant.FALLBACK, asked)


def instead(state: ModelState, failed: Choice) -> Choice:
    """Who answers in the place of a version that could not: the stable one, or nobody where that is the one that failed."""
    stable = None if state.route is None else state.versions.get(state.route.stable)
    return Choice(None if stable is failed.served else stable, Variant.FALLBACK, failed.asked)


def shadow_of(state: ModelState) -> VersionView | None:
    """The version that is scored and not shown; None where there is none, or it is not there."""
    route = state.route
    if route is None or not route.shadow or route.canary is None or not in_stage(route):
        return None
    return state.versions.get(route.canary)


def _any(state: ModelState) -> VersionView | None:
    """The version held longest, of those that can serve."""
    return next(iter(state.versions.values()), None)
