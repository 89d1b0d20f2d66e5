"""An MLflow tracking server, by its REST API: a run and a registered version for each of ours.

- Spoken with the standard library. The `mlflow` package is no dependency of the worker: its client brings 22 packages, and
  retries for minutes where a worker may be held up for seconds.
- What is found is used and what is missing is made, by the tag `penstock.version`: the same version put twice is there once.
- A server that is away is `StoreUnavailable`, one that refuses is `StoreError`; both name the request.

References
----------
MLflow REST API, https://mlflow.org/docs/latest/rest-api.html
"""

import base64
import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, TypeVar

import msgspec

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.registry import Alias
from online_models.errors import StoreError, StoreUnavailable

VERSION_TAG: Final = "penstock.version"

_API: Final = "/api/2.0/mlflow/"
_TAG_LENGTH: Final = 5_000
_EXISTS: Final = "RESOURCE_ALREADY_EXISTS"
_MISSING: Final = "RESOURCE_DOES_NOT_EXIST"

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class VersionRun:
    """What MLflow is told of a version: its parameters, figures and tags, and the aliases that point at it now."""

    model: ModelName
    version: ModelVersion
    created_at: datetime
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    aliases: frozenset[Alias]


class _Experiment(msgspec.Struct, frozen=True):
    experiment_id: str


class _Found(msgspec.Struct, frozen=True):
    experiment: _Experiment


class _RunInfo(msgspec.Struct, frozen=True):
    run_id: str


class _Run(msgspec.Struct, frozen=True):
    info: _RunInfo


class _Created(msgspec.Struct, frozen=True):
    run: _Run


class _Runs(msgspec.Struct, frozen=True):
    runs: list[_Run] = []


class _ModelVersion(msgspec.Struct, frozen=True):
    version: str
    aliases: list[str] = []


class _Registered(msgspec.Struct, frozen=True):
    model_version: _ModelVersion


class _ModelVersions(msgspec.Struct, frozen=True):
    model_versions: list[_ModelVersion] = []


class _Nothing(msgspec.Struct, frozen=True):
    pass


class _Refusal(msgspec.Struct, frozen=True):
    error_code: str = ""
    message: str = ""


class _Stopped(Exception):
    """The next request is not made."""


@dataclass
class MlflowServer:
    """One tracking server.

    uri : `http://host:port`, with `user:password@` where the server asks for them
    timeout : of one request; `put` makes at most ten
    """

    uri: str
    timeout: timedelta
    _stopped: Callable[[], bool] | None = None
    _experiments: dict[ModelName, str] = field(default_factory=dict)

    def put(self, run: VersionRun, stopped: Callable[[], bool]) -> bool:
        """Have the server show the version as it is now; False when it was `stopped` between two requests. Idempotent.

        Raises
        ------
        StoreUnavailable
            When the server does not answer in time.
        StoreError
            When it refuses, or answers what is no answer.
        """
        asked = replace(self, _stopped=stopped)
        try:
            run_id = asked._run_id(run)
            asked._log(run, run_id)
            asked._point(run, asked._model_version(run, run_id))
        except _Stopped:
            return False
        return True

    def _experiment_id(self, model: ModelName) -> str:
        if model not in self._experiments:
            name = f"penstock/{model}"
            self._post("experiments/create", {"name": name}, _Nothing, despite=_EXISTS)
            asked = urllib.parse.urlencode({"experiment_name": name})
            found = self._call("GET", f"experiments/get-by-name?{asked}", None, _Found)
            self._experiments[model] = found.experiment.experiment_id
        return self._experiments[model]

    def _run_id(self, run: VersionRun) -> str:
        experiment = self._experiment_id(run.model)
        asked = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{VERSION_TAG}` = '{run.version}'",
            "max_results": 1,
        }
        found = self._post("runs/search", asked, _Runs).runs
        if found:
            return found[0].info.run_id
        made = {
            "experiment_id": experiment,
            "run_name": f"{run.model} {run.version}",
            "start_time": _milliseconds(run.created_at),
            "tags": _pairs({VERSION_TAG: run.version}),
        }
        return self._post("runs/create", made, _Created).run.info.run_id

    def _log(self, run: VersionRun, run_id: str) -> None:
        at = _milliseconds(run.created_at)
        logged = {
            "run_id": run_id,
            "params": _pairs(run.params),
            "metrics": [
                {"key": key, "value": figure, "timestamp": at, "step": 0} for key, figure in run.metrics.items()
            ],
            "tags": _pairs(run.tags),
        }
        self._post("runs/log-batch", logged, _Nothing)
        self._post("runs/update", {"run_id": run_id, "status": "FINISHED", "end_time": at}, _Nothing)

    def _model_version(self, run: VersionRun, run_id: str) -> _ModelVersion:
        name = _registered_name(run.model)
        self._post("registered-models/create", {"name": name}, _Nothing, despite=_EXISTS)
        asked = urllib.parse.urlencode({"filter": f"name = '{name}' and run_id = '{run_id}'", "max_results": 1})
        found = self._call("GET", f"model-versions/search?{asked}", None, _ModelVersions).model_versions
        if found:
            return self._with_aliases(name, found[0])
        made = {
            "name": name,
            "source": f"penstock:/{run.model}/{run.version}",
            "run_id": run_id,
            "tags": _pairs({VERSION_TAG: run.version}),
        }
        return self._post("model-versions/create", made, _Registered).model_version

    def _with_aliases(self, name: str, found: _ModelVersion) -> _ModelVersion:
        """A search need not tell aliases."""
        asked = urllib.parse.urlencode({"name": name, "version": found.version})
        return self._call("GET", f"model-versions/get?{asked}", None, _Registered).model_version

    def _point(self, run: VersionRun, at: _ModelVersion) -> None:
        name = _registered_name(run.model)
        for alias in Alias:
            values = {"name": name, "alias": str(alias)}
            if alias in run.aliases and alias not in at.aliases:
                self._post("registered-models/alias", {**values, "version": at.version}, _Nothing)
            elif alias not in run.aliases and alias in at.aliases:
                asked = urllib.parse.urlencode(values)
                self._call("DELETE", f"registered-models/alias?{asked}", values, _Nothing, despite=_MISSING)

    def _post(self, path: str, body: Mapping[str, object], answer: type[T], despite: str = "") -> T:
        return self._call("POST", path, body, answer, despite)

    def _call(self, method: str, path: str, body: Mapping[str, object] | None, answer: type[T], despite: str = "") -> T:
        """The answer to a request; `despite` is an error code that is as good as an answer without content."""
        if self._stopped is not None and self._stopped():
            raise _Stopped
        request = self._request(method, path, body)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout.total_seconds()) as response:
                return msgspec.json.decode(response.read(), type=answer)
        except urllib.error.HTTPError as error:
            refusal = _refusal(error)
            if despite and refusal.error_code == despite:
                return msgspec.json.decode(b"{}", type=answer)
            raised = StoreUnavailable if error.code >= 500 else StoreError
            raise raised(f"MLflow: {method} {path}: {error.code} {refusal.error_code} {refusal.message}") from error
        except (OSError, http.client.HTTPException) as error:
            raise StoreUnavailable(f"MLflow: {method} {path}: {getattr(error, 'reason', error)}") from error
        except msgspec.DecodeError as error:
            raise StoreError(f"MLflow: {method} {path}: expected {answer.__name__.strip('_')}: {error}") from error

    def _request(self, method: str, path: str, body: Mapping[str, object] | None) -> urllib.request.Request:
        split = urllib.parse.urlsplit(self.uri)
        host = split.netloc.rpartition("@")[2]
        headers = {"Content-Type": "application/json"}
        if split.username is not None:
            secret = urllib.parse.unquote(f"{split.username}:{split.password or ''}")
            headers["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()
        url = f"{split.scheme}://{host}{split.path.rstrip('/')}{_API}{path}"
        data = None if body is None else msgspec.json.encode(body)
        return urllib.request.Request(url, data, headers, method=method)


def _refusal(error: urllib.error.HTTPError) -> _Refusal:
    try:
        return msgspec.json.decode(error.read(), type=_Refusal)
    except (OSError, http.client.HTTPException, msgspec.DecodeError):
        return _Refusal(message=str(error.reason))


def _registered_name(model: ModelName) -> str:
    return f"penstock.{model}"


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000)


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value[:_TAG_LENGTH]} for key, value in values.items()]
