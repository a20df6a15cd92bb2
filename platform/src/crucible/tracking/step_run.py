"""One step's nested MLflow run: what is to be sent to it, and sending it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from crucible.tracking.client import mlflow_errors
from crucible.tracking.fields import epoch_ms, mlflow_key, param_value
from crucible.tracking.pipeline_run import log_params, set_tags

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

MAX_METRICS_PER_BATCH: Final = 1000
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
PROGRESS_METRIC: Final = "progress/fraction"


class StepRun:
    """Takes a step's events in, sends what is new. Nothing is given up before it was sent.

    Sending the same metric twice, as after a crash in between, changes nothing in MLflow: a point
    is its key, step, value and time, and the time is the event's.
    """

    def __init__(
        self,
        client: MlflowClient,
        mlflow_run_id: str,
        params: Mapping[str, str] = _NOTHING,
        tags: Mapping[str, str] = _NOTHING,
    ) -> None:
        self.mlflow_run_id = mlflow_run_id
        self._client = client
        # What MLflow has. A param can be set once.
        self._params = dict(params)
        self._sent_tags = dict(tags)
        self._new_params: dict[str, str] = {}
        self._metrics: list[Metric] = []
        self._tags: dict[str, str] = {}
        self._sent_status: tuple[str, float | None] | None = None

    def take(self, events: Iterable[Mapping[str, Any]], attempt: int) -> None:
        """Queue the metrics, params and tags of an attempt's events."""
        progress: Mapping[str, Any] | None = None
        for event in events:
            if event["type"] == "progress":
                progress = event
            else:
                self._take_event(event, attempt)
        # Progress comes twice a second; the last of a poll is what a curve of it needs.
        if progress is not None:
            self._take_event(progress, attempt)

    def take_metrics_at_end(self, values: Mapping[str, float], ended_at: float) -> None:
        """Queue the numbers that a step left behind as an artifact."""
        self._take_metrics(values, 0, ended_at)

    def take_tags(self, tags: Mapping[str, str]) -> None:
        self._tags |= tags

    def drop_tags(self, prefix: str) -> None:
        """Remove the tags whose names start with ``prefix``.

        Raises:
            TrackingUnavailable: MLflow did not answer.
        """
        for key in [key for key in self._sent_tags if key.startswith(prefix)]:
            with mlflow_errors(f"remove a tag of MLflow run {self.mlflow_run_id}"):
                self._client.delete_tag(self.mlflow_run_id, key)
            del self._sent_tags[key]
        self._tags = {k: v for k, v in self._tags.items() if not k.startswith(prefix)}

    def take_params(self, params: Mapping[str, str]) -> None:
        for key, value in params.items():
            self._take_param(key, value, 1)

    def send(self) -> None:
        """Send what is queued.

        Raises:
            TrackingUnavailable: MLflow did not answer; what was not sent stays queued.
        """
        with mlflow_errors(f"log to MLflow run {self.mlflow_run_id}"):
            while self._metrics:
                self._client.log_batch(
                    self.mlflow_run_id, metrics=self._metrics[:MAX_METRICS_PER_BATCH]
                )
                del self._metrics[:MAX_METRICS_PER_BATCH]
            if self._new_params:
                log_params(self._client, self.mlflow_run_id, self._new_params)
                self._params |= self._new_params
                self._new_params = {}
            changed = {k: v for k, v in self._tags.items() if self._sent_tags.get(k) != v}
            if changed:
                set_tags(self._client, self.mlflow_run_id, changed)
                self._sent_tags |= changed

    def set_status(self, status: str, ended_at: float | None) -> None:
        """Make MLflow show ``status``, with the time if it is a final one."""
        if (status, ended_at) == self._sent_status:
            return
        with mlflow_errors(f"set the status of MLflow run {self.mlflow_run_id}"):
            if status in ("RUNNING", "SCHEDULED"):
                self._client.update_run(self.mlflow_run_id, status=status)
            else:
                self._client.set_terminated(self.mlflow_run_id, status, epoch_ms(ended_at))
        self._sent_status = (status, ended_at)

    def _take_event(self, event: Mapping[str, Any], attempt: int) -> None:
        try:
            match event["type"]:
                case "metrics":
                    self._take_metrics(event["values"], event["step"], event["time"])
                case "params":
                    for name, value in event["values"].items():
                        self._take_param(mlflow_key(name), param_value(value), attempt)
                case "tags":
                    self._tags |= {mlflow_key(k): str(v) for k, v in event["values"].items()}
                case "progress" if event["total"]:
                    fraction = event["done"] / event["total"]
                    self._take_metrics({PROGRESS_METRIC: fraction}, 0, event["time"])
        except (KeyError, TypeError, AttributeError) as error:
            # Components may write their own events; a bad one must not cost the good ones.
            logger.warning("%s: skipped event %r: %r", self.mlflow_run_id, event, error)

    def _take_metrics(self, values: Mapping[str, Any], step: int, time_seconds: float) -> None:
        from mlflow.entities import Metric

        time_ms = round(time_seconds * 1000)
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._metrics.append(Metric(mlflow_key(name), value, time_ms, step))
            else:
                logger.warning("metric %s of %s is no number: %r", name, self.mlflow_run_id, value)

    def _take_param(self, key: str, value: str, attempt: int) -> None:
        known = self._new_params.get(key, self._params.get(key))
        if known is not None and known != value:
            key = f"{key}.attempt-{attempt}"
        if key not in self._params:
            self._new_params[key] = value
