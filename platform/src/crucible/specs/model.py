"""The form of the YAML files that users write: pipelines and presets.

Only form is checked here; what references, components and artifact types demand is checked by
`crucible.specs.check`. Unset is None throughout: the field says what happens then.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
PARAM_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
USES = r"^([a-z0-9]+(-[a-z0-9]+)*|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$"
REGISTERED_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
ALIAS = r"^[A-Za-z][A-Za-z0-9_-]*$"

PATTERN_RULES = {
    LABEL: "use lower-case letters, digits and '-', at most 63, as Kubernetes names are",
    PARAM_NAME: "use letters, digits and '_'",
    USES: "write a catalogue name such as train-vlm, or package.module:Class",
    REGISTERED_NAME: "use letters, digits, '_', '-' and '.'",
    ALIAS: "use letters, digits, '_' and '-'",
}
"""What each pattern asks for, in words."""

ParamType = Literal["integer", "number", "string", "boolean", "list"]
Label = Annotated[str, Field(pattern=LABEL, max_length=63)]


class Spec(BaseModel):
    """Base of all: unknown keys are errors and nothing is cast silently.

    The string under a field is its documentation. `crucible.specs.schema` reads it from the source:
    pydantic's ``use_attribute_docstrings`` would do so on every start, for 20 ms of validate's 300.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        defer_build=True,
    )


def _no_null(value: object) -> object:
    return {} if value is None else value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Mapping = BeforeValidator(_no_null)
"""A key with nothing behind it is an empty mapping."""
OneOrMany = Annotated[
    list[str],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class MetadataSpec(Spec):
    """What the pipeline is called."""

    name: Label
    """Names runs and the MLflow experiment. Lower-case letters, digits and '-'."""
    description: str = ""
    """Shown in listings and reports."""


class ParamSpec(Spec):
    """A parameter: its type, default and bounds."""

    type: ParamType
    """What ``--set`` and presets are read as."""
    default: Any = None
    """Without one a preset or ``--set`` must give the value."""
    minimum: float | None = None
    """Smallest value of an integer or number."""
    maximum: float | None = None
    """Largest value of an integer or number."""
    choices: Annotated[list[Any], Field(min_length=1)] | None = None
    """The only values allowed; of a list, the only items."""
    description: str = ""
    """What the parameter is for, with its unit."""


class RetrySpec(Spec):
    """How often and how fast a step is tried again."""

    limit: Annotated[int, Field(ge=0, le=100)] | None = None
    """Tries after the first, on temporary failures only. Unset: 2."""
    backoff_seconds: Annotated[float, Field(ge=0)] | None = None
    """Wait before the second try. Unset: 10."""
    backoff_factor: Annotated[float, Field(ge=1)] | None = None
    """Each wait is the last one times this. Unset: 2."""
    max_backoff_seconds: Annotated[float, Field(ge=0)] | None = None
    """No wait is longer. Unset: 300."""


class ResourcesSpec(Spec):
    """What a step asks for."""

    cpus: Annotated[float, Field(gt=0)] | None = None
    """CPU cores. Unset: the component's own figure, as with all fields here."""
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory limit."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs on each node."""
    nodes: Annotated[int, Field(ge=1)] | None = None
    """Machines that work together on the step."""
    pool: Label | None = None
    """Node pool that the step runs in."""


class DefaultsSpec(Spec):
    """What holds for every step that does not say otherwise."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every step that names none."""
    retry: RetrySpec = RetrySpec()
    resources: ResourcesSpec = ResourcesSpec()
    cache: bool = True
    """False runs every step again."""
    timeout_minutes: Annotated[float, Field(gt=0)] | None = None
    """Unset: no limit."""


class TaskSpec(Spec):
    """The exit step: runs last, whatever happened."""

    uses: Annotated[str, Field(pattern=USES)]
    """A component: catalogue name, or ``package.module:Class`` of your own."""
    with_: Annotated[dict[str, Any], Mapping] = Field(default_factory=dict, alias="with")
    """The component's artifacts and settings, in one namespace."""
    retry: RetrySpec = RetrySpec()
    resources: ResourcesSpec = ResourcesSpec()
    cache: bool | None = None
    """False runs the step again even if its outputs are known."""
    timeout_minutes: Annotated[float, Field(gt=0)] | None = None
    """Unset: that of ``defaults``."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Unset: that of ``defaults``."""
    image: str | None = None
    """Container image by digest. Ignored by the local engine. Unset: the component's own."""


class StepSpec(TaskSpec):
    """One step, or one for each item of ``foreach``."""

    foreach: list[Any] | None = None
    """One step for each item, ``${item}`` being the item. A list or a parameter that is one. Steps
    with equal items are paired: one artifact or metric of such a step is that of the same item."""
    when: OneOrMany = []
    """``REF OP VALUE``, all of which must hold; REF is a parameter or another step's metric."""
    after: OneOrMany = []
    """Steps to wait for besides those whose outputs are used."""


class ThresholdSpec(Spec):
    """Bounds of one metric."""

    min: float | None = None
    """Smallest value that passes."""
    max: float | None = None
    """Largest value that passes."""


class GateSpec(Spec):
    """When a registered version may take the alias."""

    metrics: str
    """A Metrics output with the candidate's numbers."""
    thresholds: Annotated[dict[str, ThresholdSpec], Mapping] = {}
    """Bounds by metric name."""
    predictions: str | None = None
    """A Dataset[predictions] output, compared record by record with the champion's."""
    max_regression: Annotated[float, Field(ge=0)] = 0.0
    """How much worse than the champion the candidate may be."""
    rule: Literal["not-worse", "non-inferior"] = "not-worse"
    """not-worse refuses what is surely worse; non-inferior promotes what is surely not worse."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the interval of the paired comparison."""


class ReleaseSpec(Spec):
    """What to register after success, and when to promote it."""

    model: str
    """The Model output to register."""
    register_as: Annotated[str, Field(pattern=REGISTERED_NAME)]
    """Name in the model registry."""
    gate: GateSpec
    promote_to: Annotated[str, Field(pattern=ALIAS)] = "champion"
    """Alias that a version takes which passes the gate."""


class PipelineDocument(Spec):
    """A pipeline: steps from data to a promoted model."""

    api_version: Literal["crucible/v1"] = Field(alias="apiVersion")
    kind: Literal["Pipeline"]
    metadata: MetadataSpec
    params: Annotated[dict[Annotated[str, Field(pattern=PARAM_NAME)], ParamSpec], Mapping] = {}
    """Values to vary from run to run, used as ``${params.NAME}``."""
    defaults: Annotated[DefaultsSpec, Mapping] = DefaultsSpec()
    """What holds for every step that does not say otherwise."""
    steps: Annotated[dict[Label, StepSpec], Field(min_length=1), Mapping]
    """Steps by name. Order does not matter: references make it."""
    on_exit: TaskSpec | None = None
    """Runs last, whatever happened."""
    release: ReleaseSpec | None = None
    """What to register after success, and when to promote it."""


class PresetDocument(Spec):
    """Parameter values under a name, in ``presets/NAME.yaml`` beside the pipeline file."""

    api_version: Literal["crucible/v1"] = Field(alias="apiVersion")
    kind: Literal["Preset"]
    description: str = ""
    """What the preset is for."""
    params: Annotated[dict[str, Any], Mapping] = {}
    """Values by parameter name."""
