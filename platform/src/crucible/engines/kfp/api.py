"""KFP's API as the engine uses it: the generated client, with our types and our errors.

Source of what servers answer: KFP 2.17. Its messages for bad input are long and name little, so
what can be checked is checked before (`crucible.engines.foreign`, the plan). A request that
changes something is sent once; whoever sends it looks afterwards whether it took effect.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from crucible.errors import (
    ClusterRefused,
    ClusterUnavailable,
    CrucibleError,
    RunNotFound,
    UserError,
)
from crucible.sdk.retry import Backoff

Json = Mapping[str, Any]
T = TypeVar("T")

FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})
"""States that a run does not leave. The SDK's own waiter does not know CANCELED."""
_BACKOFF = Backoff(limit=6, first_seconds=0.5, factor=2.0, max_seconds=15.0)
"""About half a minute in all: an API server that restarts is back by then."""
_TIMEOUT_SECONDS = (10, 60)
_PAGE_SIZE = 50
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class KfpTask:
    """One task of a run, as far as v2beta1 tells."""

    task_id: str
    name: str
    state: str
    started_at: float | None
    ended_at: float | None
    parent_id: str


@dataclass(frozen=True)
class KfpRun:
    """One run."""

    id: str
    name: str
    state: str
    created_at: float
    ended_at: float | None
    error: str
    was_cancelled: bool
    """It was asked to end: KFP itself says FAILED then."""
    tasks: tuple[KfpTask, ...]
    pipeline_spec: Json
    parameters: Json

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


@dataclass
class PipelinesApi:
    """The API behind one address.

    Args:
        host: e.g. ``http://127.0.0.1:8888``.
        namespace: of the runs, in multi-user installations.
        token: gives the bearer token anew for each request; None where there is none.
        ca_file: certificates of a private authority.
        cert: client certificate and key, where the way leads through the Kubernetes API.
        sleep: for tests.
    """

    host: str
    namespace: str
    token: Callable[[], str | None] = lambda: None
    ca_file: str | None = None
    cert: tuple[str, str] | None = None
    verify: bool = True
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        import kfp_server_api

        configuration = kfp_server_api.Configuration(host=self.host)
        configuration.ssl_ca_cert = self.ca_file
        configuration.verify_ssl = self.verify
        configuration.retries = False
        if self.cert is not None:
            configuration.cert_file, configuration.key_file = self.cert
        self._client = kfp_server_api.ApiClient(configuration)
        self._runs = kfp_server_api.RunServiceApi(self._client)
        self._experiments = kfp_server_api.ExperimentServiceApi(self._client)

    def create_run(
        self,
        name: str,
        *,
        pipeline: Json,
        platform: Json | None,
        parameters: Json,
        experiment_id: str,
        root: str | None,
        service_account: str | None,
    ) -> KfpRun:
        """Start a run. Sent once: after `ClusterUnavailable` ask `find_runs` what became of it.

        Raises:
            UserError: the server refuses the pipeline or its arguments.
            ClusterRefused: this user may not.
            ClusterUnavailable: no answer.
        """
        import kfp_server_api as models

        spec: dict[str, Any] = {"pipeline_spec": pipeline}
        if platform:
            spec["platform_spec"] = platform
        body = models.V2beta1Run(
            display_name=name,
            experiment_id=experiment_id,
            pipeline_spec=spec,
            service_account=service_account,
            runtime_config=models.V2beta1RuntimeConfig(
                parameters=dict(parameters), pipeline_root=root
            ),
        )
        create = self._runs.run_service_create_run
        return _run(self._once("submit the run", lambda: create(body, **self._options())))

    def get_run(self, run_id: str) -> KfpRun:
        """The run of that id.

        Raises:
            RunNotFound: KFP has none; it may have been deleted.
        """
        get = self._runs.run_service_get_run
        return _run(self._call("look at the run", lambda: get(run_id, **self._options())))

    def runs(self, filter_: Json | None = None, *, limit: int | None = None) -> Iterator[KfpRun]:
        """Runs, newest first, page by page."""
        found = (run for page in self._pages(filter_) for run in page.runs or ())
        yield from map(_run, itertools.islice(found, limit))

    def find_runs(self, name: str) -> list[KfpRun]:
        """Runs of exactly that name, oldest first."""
        wanted = {"operation": "EQUALS", "key": "name", "stringValue": name}
        return sorted(self.runs({"predicates": [wanted]}), key=lambda run: (run.created_at, run.id))

    def terminate(self, run_id: str) -> None:
        """Ask a run to end; nothing happens to one that has ended."""
        end = self._runs.run_service_terminate_run
        self._call("end the run", lambda: end(run_id, **self._options()))

    def retry(self, run_id: str) -> None:
        """Run the failed tasks of a run that has ended again, in place."""
        again = self._runs.run_service_retry_run
        self._once("retry the run", lambda: again(run_id, **self._options()))

    def experiment_id(self, name: str) -> str:
        """The experiment of that name, made if there is none."""
        import kfp_server_api as models

        wanted = {"predicates": [{"operation": "EQUALS", "key": "name", "stringValue": name}]}
        find = self._experiments.experiment_service_list_experiments
        make = self._experiments.experiment_service_create_experiment
        options = {"filter": json.dumps(wanted), "namespace": self.namespace}

        def look() -> str | None:
            found = self._call(
                "look for the experiment", lambda: find(**options, **self._options())
            )
            experiments = found.experiments or ()
            return str(experiments[0].experiment_id) if experiments else None

        existing = look()
        if existing is not None:
            return existing
        body = models.V2beta1Experiment(display_name=name, namespace=self.namespace)
        try:
            made = self._once("make the experiment", lambda: make(body, **self._options()))
        except (UserError, ClusterUnavailable):  # somebody was quicker, or it took effect unheard
            existing = look()
            if existing is None:
                raise
            return existing
        return str(made.experiment_id)

    def node_log(self, run_id: str, node_id: str) -> str:
        """The stored log of a pod, whether the pod is there or not.

        Raises:
            RunNotFound: nothing was stored.
        """
        path = f"/apis/v1alpha1/runs/{run_id}/nodes/{node_id}/log"
        response = self._call("read a log", lambda: self._get(path))
        return str(response.data.decode(errors="replace"))

    def check(self) -> None:
        """Return if the API answers."""
        self._call("reach Kubeflow Pipelines", lambda: self._get("/apis/v2beta1/healthz"))

    def _pages(self, filter_: Json | None) -> Iterator[Any]:
        token = ""
        while True:
            page = self._call("list runs", functools.partial(self._page, filter_, token))
            yield page
            token = page.next_page_token or ""
            if not token:
                return

    def _page(self, filter_: Json | None, token: str) -> Any:
        options: dict[str, Any] = {
            "page_size": _PAGE_SIZE,
            "page_token": token,
            "sort_by": "created_at desc",
            "namespace": self.namespace,
        }
        if filter_ is not None:
            options["filter"] = json.dumps(filter_)
        return self._runs.run_service_list_runs(**options, **self._options())

    def _get(self, path: str) -> Any:
        self._options()
        return self._client.call_api(
            path,
            "GET",
            header_params={"Accept": "*/*"},
            auth_settings=[],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=_TIMEOUT_SECONDS,
        )

    def _options(self) -> dict[str, Any]:
        """Of every request; the token is read again, since it may have been renewed."""
        token = self.token()
        if token:
            self._client.default_headers["Authorization"] = f"Bearer {token}"
        return {"_request_timeout": _TIMEOUT_SECONDS}

    def _call(self, action: str, request: Callable[[], T]) -> T:
        """``request``, again after a temporary fault: for what changes nothing when repeated."""
        tries = 1
        while True:
            try:
                return self._once(action, request)
            except ClusterUnavailable:
                if tries > _BACKOFF.limit:
                    raise
            self.sleep(_BACKOFF.delay_seconds(tries, random.Random()))
            tries += 1

    def _once(self, action: str, request: Callable[[], T]) -> T:
        import urllib3.exceptions
        from kfp_server_api.exceptions import ApiException

        try:
            return request()
        except ApiException as error:
            raise _typed(action, self.host, error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterUnavailable(
                f"cannot {action}: Kubeflow Pipelines at {self.host} does not answer: {error}. "
                "Check that it runs and that the context's pipelines.api is right; "
                "`platformctl doctor` looks."
            ) from error


def _typed(action: str, host: str, error: Any) -> CrucibleError:
    said = _message(error.body) or str(error.reason)
    status = int(error.status or 0)
    what = f"cannot {action}: Kubeflow Pipelines at {host} answered {status}: {said}"
    if status in (0, *_RETRIED) and not _is_refusal(status, said):
        return ClusterUnavailable(f"{what} Try again later.")
    if status == 404:
        return RunNotFound(f"{what} It may have been deleted, or belongs to another context.")
    if status == 401:
        return UserError(f"{what} The token is missing, expired or not valid: log in again.")
    if status == 403:
        return ClusterRefused(f"{what} Ask for the role crucible-submitter in the run namespace.")
    return UserError(f"{what} Correct it, then submit again.")


def _is_refusal(status: int, said: str) -> bool:
    """KFP answers 500 to a pipeline that it does not like; trying again changes nothing."""
    signs = ("is invalid", "pipeline spec is invalid", "unknown template format", "InvalidInput")
    return status == 500 and any(sign in said for sign in signs)


def _message(body: Any) -> str:
    """The message of an error, without the stack trace that KFP adds."""
    try:
        value = json.loads(body)
        text = str(value.get("error_message") or value.get("error") or value.get("message") or "")
    except (ValueError, TypeError, AttributeError):
        text = body if isinstance(body, str) else ""
    return text.partition("\ngithub.com/")[0].strip()[:600]


def _run(found: Any) -> KfpRun:
    history = [str(entry.state) for entry in found.state_history or ()]
    details = found.run_details
    spec = found.pipeline_spec if isinstance(found.pipeline_spec, dict) else {}
    return KfpRun(
        id=str(found.run_id),
        name=str(found.display_name),
        state=str(found.state or "PENDING"),
        created_at=_seconds(found.created_at) or 0.0,
        ended_at=_seconds(found.finished_at),
        error=str(found.error.message) if found.error and found.error.message else "",
        was_cancelled="CANCELING" in history or "CANCELED" in history,
        tasks=tuple(_task(task) for task in (details.task_details if details else None) or ()),
        pipeline_spec=spec.get("pipeline_spec", spec),
        parameters=(found.runtime_config.parameters if found.runtime_config else None) or {},
    )


def _task(found: Any) -> KfpTask:
    return KfpTask(
        task_id=str(found.task_id),
        name=str(found.display_name),
        state=str(found.state or "PENDING"),
        started_at=_seconds(found.start_time),
        ended_at=_seconds(found.end_time),
        parent_id=str(found.parent_task_id or ""),
    )


def _seconds(moment: datetime | None) -> float | None:
    """Since the epoch; KFP gives 1970 for what has not happened."""
    value = moment.timestamp() if moment is not None else 0.0
    return value if value > 0 else None
