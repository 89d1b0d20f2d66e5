"""A small MLflow tracking server: the requests that a mirror makes, over real HTTP, kept in this process.

It answers as MLflow 3.17 did when the same requests were put to it.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Body = dict[str, Any]
_EXISTS = (400, {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "exists"})


@dataclass
class Run:
    experiment: str
    name: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Tracked:
    """What the server has been told.

    versions : (registered model, MLflow's number) -> run id; aliases : (registered model, alias) -> number
    failing : status of every answer while it is set; refused : a version that no run is made for; asked : the paths of all
        requests; slow_seconds : before each answer
    """

    experiments: dict[str, str] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    versions: dict[tuple[str, str], str] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    failing: int = 0
    refused: str = ""
    slow_seconds: float = 0.0
    asked: list[str] = field(default_factory=list)
    authorization: str | None = None

    def pointed(self) -> dict[str, str]:
        """Alias -> the version, by our own name of it."""
        return {
            alias: self.runs[self.versions[model, number]].tags["penstock.version"]
            for (model, alias), number in self.aliases.items()
        }

    def answer(self, method: str, path: str, body: Body) -> tuple[int, Body]:
        match method, path:
            case "POST", "experiments/create":
                if body["name"] in self.experiments:
                    return _EXISTS
                self.experiments[body["name"]] = str(len(self.experiments) + 1)
            case "GET", "experiments/get-by-name":
                return 200, {"experiment": {"experiment_id": self.experiments[body["experiment_name"]]}}
            case "POST", "registered-models/create":
                if body["name"] in self.models:
                    return _EXISTS
                self.models.add(body["name"])
            case _, path if path.startswith("runs/"):
                return self._runs(path, body)
            case _:
                return self._versions(method, path, body)
        return 200, {}

    def _runs(self, path: str, body: Body) -> tuple[int, Body]:
        match path:
            case "runs/search":
                (version,) = re.findall(r"tags\.`penstock\.version` = '(\w+)'", body["filter"])
                found = [run_id for run_id, run in self.runs.items() if run.tags["penstock.version"] == version]
                found = [run_id for run_id in found if self.runs[run_id].experiment in body["experiment_ids"]]
                return 200, {"runs": [{"info": {"run_id": run_id}} for run_id in found]} if found else {}
            case "runs/create" if self.refused and body["run_name"].endswith(self.refused):
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "not this one"}
            case "runs/create":
                run_id = f"run{len(self.runs)}"
                self.runs[run_id] = Run(body["experiment_id"], body["run_name"], tags=_pairs(body["tags"]))
                return 200, {"run": {"info": {"run_id": run_id}, "data": {}}}
            case "runs/log-batch":
                run = self.runs[body["run_id"]]
                run.params |= _pairs(body["params"])
                run.tags |= _pairs(body["tags"])
                run.metrics |= _pairs(body["metrics"])
            case "runs/update":
                assert body["status"] == "FINISHED"
            case _:
                return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path}
        return 200, {}

    def _versions(self, method: str, path: str, body: Body) -> tuple[int, Body]:
        match method, path:
            case "GET", "model-versions/search":
                model, run_id = re.findall(r"'(.*?)'", body["filter"])
                found = [number for (of, number), run in self.versions.items() if (of, run) == (model, run_id)]
                return 200, {"model_versions": [{"version": number} for number in found]} if found else {}
            case "GET", "model-versions/get":
                aliases = [
                    a for (of, a), number in self.aliases.items() if (of, number) == (body["name"], body["version"])
                ]
                return 200, {"model_version": {"version": body["version"], "aliases": aliases}}
            case "POST", "model-versions/create":
                number = str(1 + sum(of == body["name"] for of, _ in self.versions))
                self.versions[body["name"], number] = body["run_id"]
                return 200, {"model_version": {"version": number}}
            case "POST", "registered-models/alias":
                self.aliases[body["name"], body["alias"]] = body["version"]
            case "DELETE", "registered-models/alias":
                del self.aliases[body["name"], body["alias"]]
            case _:
                return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path}
        return 200, {}


def _pairs(listed: list[Body]) -> dict[str, Any]:
    return {each["key"]: each["value"] for each in listed}


@contextmanager
def tracking_server(port: int = 0) -> Iterator[tuple[Tracked, str]]:
    """A server on a free port (or that one): what it is told, and its address."""
    tracked = Tracked()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            split = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            query = {name: values[0] for name, values in parse_qs(split.query).items()}
            tracked.asked.append(split.path)
            tracked.authorization = self.headers.get("Authorization")
            time.sleep(tracked.slow_seconds)
            path = split.path.removeprefix("/api/2.0/mlflow/")
            status, answer = (
                (tracked.failing, {"error_code": "INTERNAL_ERROR", "message": "out of order"})
                if tracked.failing
                else tracked.answer(self.command, path, (json.loads(raw) if raw else {}) | query)
            )
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815  names of http.server

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield tracked, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
