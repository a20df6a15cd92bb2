"""`kind: Context`: where runs go. One file a cluster; without one runs stay on this machine.

A context names places and conventions, never secrets: tokens and keys are read, when they are
needed, from the environment, a file or a Kubernetes Secret that it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from crucible.settings import LOCAL_CONTEXT
from crucible.specs.document import read_document, refused
from crucible.specs.form import form_problems
from crucible.specs.model import Label, Mapping, Spec

RESERVED_ENV = frozenset(
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "MLFLOW_TRACKING_URI", "HOME"}
)
"""Variables of step pods that follow from other fields."""
_DIGEST_REF = r"^[^\s@]+@sha256:[0-9a-f]{64}$"
_URL = r"^https?://\S+$"
_STORE = r"^s3://[^\s/@]+(/\S*)?$"
_ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"

ImageSet = Literal["base", "cluster", "train", "eval", "serve"]
ImageRef = Annotated[str, Field(pattern=_DIGEST_REF)]
"""``registry/name@sha256:…``: a tag would let the cache serve what another image wrote."""
EnvName = Annotated[str, Field(pattern=_ENV_NAME)]


class KubernetesSpec(Spec):
    """How the cluster is reached and where in it runs live."""

    kubeconfig: str | None = None
    """Unset: ``KUBECONFIG``, then ``~/.kube/config``, then the service account of the pod."""
    context: str | None = None
    """Context of the kubeconfig. Unset: its current one."""
    namespace: Label = "kubeflow"
    """Where step pods run: KFP's own namespace, or a user's profile namespace."""
    service_account: Label = "crucible-runner"
    """Of step pods."""
    launcher_service_account: Label = "crucible-launcher"
    """Of the pods that start TrainJobs. The same account is given to the whole run by KFP, so a
    pipeline with a step on several nodes runs under this one."""


class SecretKeySpec(Spec):
    """One key of a Kubernetes Secret in the run namespace."""

    name: Label
    key: str


class TokenSpec(Spec):
    """Where a bearer token is; exactly one is set."""

    env: EnvName | None = None
    """Environment variable of this machine."""
    file: str | None = None
    """File on this machine, read at each call, so that rotation needs no restart."""


class UrlAccessSpec(Spec):
    """KFP behind an address of its own."""

    access: Literal["url"] = "url"
    url: Annotated[str, Field(pattern=_URL)]
    token: TokenSpec | None = None
    """Unset: no token, as in single-user mode."""
    ca_file: str | None = None
    """Certificates of a private authority."""


class PortForwardAccessSpec(Spec):
    """KFP through a port-forward of the Kubernetes API, for as long as a command needs it."""

    access: Literal["port-forward"] = "port-forward"
    namespace: Label = "kubeflow"
    service: Label = "ml-pipeline"
    port: Annotated[int, Field(ge=1, le=65535)] = 8888


class ServiceProxyAccessSpec(Spec):
    """KFP through the Kubernetes API's service proxy; needs the right to ``services/proxy``."""

    access: Literal["service-proxy"] = "service-proxy"
    namespace: Label = "kubeflow"
    service: Label = "ml-pipeline"
    port: Annotated[int, Field(ge=1, le=65535)] = 8888


class PipelinesSpec(Spec):
    """Kubeflow Pipelines."""

    api: Annotated[
        UrlAccessSpec | PortForwardAccessSpec | ServiceProxyAccessSpec,
        Field(discriminator="access"),
    ] = PortForwardAccessSpec()
    """How this machine reaches its API."""
    ui_url: Annotated[str, Field(pattern=_URL)] | None = None
    """Address of the web page, printed for people. Unset: none is printed."""
    root: Annotated[str, Field(pattern=r"^(s3|minio|gs)://\S+$")] | None = None
    """Pipeline root of runs. Unset: KFP's own default."""


class ServiceSpec(Spec):
    """A Service that this machine reaches by port-forward."""

    namespace: Label = "crucible-system"
    service: Label
    port: Annotated[int, Field(ge=1, le=65535)]


class StoreSpec(Spec):
    """The artifact store, seen from the pods and from here."""

    uri: Annotated[str, Field(pattern=_STORE)]
    """``s3://bucket/prefix``."""
    endpoint: Annotated[str, Field(pattern=_URL)] | None = None
    """As pods reach it. Unset: AWS."""
    region: str = "us-east-1"
    client_endpoint: Annotated[str, Field(pattern=_URL)] | None = None
    """As this machine reaches it. Unset: ``forward`` if set, else the pods' endpoint."""
    forward: ServiceSpec | None = None
    """Port-forward to the store while a command runs."""
    secret: Label | None = "crucible-store"
    """Secret of the run namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. ``null``: pods
    use the role of their service account. This machine uses its own environment's keys first."""


class MlflowSpec(Spec):
    """MLflow, seen from the pods and from here."""

    uri: Annotated[str, Field(pattern=_URL)]
    client_uri: Annotated[str, Field(pattern=_URL)] | None = None
    """As this machine reaches it. Unset: ``forward`` if set, else the pods' address."""
    forward: ServiceSpec | None = None
    token_secret: SecretKeySpec | None = None
    """Becomes MLFLOW_TRACKING_TOKEN in pods."""


class TolerationSpec(Spec):
    """As in a pod."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class PoolSpec(Spec):
    """A node pool: what a pod must say to land there and nowhere else."""

    node_selector: Annotated[dict[str, str], Mapping] | None = None
    """Unset: ``crucible.dev/pool: NAME``, and nothing for the pool ``cpu``."""
    tolerations: list[TolerationSpec] | None = None
    """Unset: the taint ``crucible.dev/pool=NAME:NoSchedule`` and ``nvidia.com/gpu``, and nothing
    for the pool ``cpu``."""
    gpu_resource: str = "nvidia.com/gpu"
    shared_memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Size of /dev/shm. Unset: half of the step's memory where it has GPUs, else the runtime's 64
    MiB."""
    queue: Label | None = None
    """Kueue's LocalQueue for GPU pods and TrainJobs of this pool. Unset: not queued."""


class EnvSpec(Spec):
    """One environment variable of step pods; exactly one of the three is set."""

    name: EnvName
    value: str | None = None
    secret: SecretKeySpec | None = None
    config_map: SecretKeySpec | None = None


class TrainerSpec(Spec):
    """Kubeflow Trainer, for steps on several nodes."""

    runtime: Label = "crucible-torch"
    """ClusterTrainingRuntime that TrainJobs refer to."""
    queued_timeout_minutes: Annotated[float, Field(gt=0)] | None = None
    """How long a job may wait for quota. Unset: as long as it takes."""


class ContextMetadata(Spec):
    """What the context is called."""

    name: Label


class ContextDocument(Spec):
    """A cluster that runs pipelines."""

    api_version: Literal["crucible/v1"] = Field(alias="apiVersion")
    kind: Literal["Context"]
    metadata: ContextMetadata
    kubernetes: Annotated[KubernetesSpec, Mapping] = KubernetesSpec()
    pipelines: Annotated[PipelinesSpec, Mapping] = PipelinesSpec()
    store: StoreSpec
    mlflow: MlflowSpec | None = None
    """Unset: runs are not tracked and nothing can be released."""
    images: Annotated[dict[ImageSet, ImageRef], Field(min_length=1)]
    """Image of each dependency set, by digest. ``platformctl images digest`` prints them. A set
    that no step of a pipeline needs may be left out."""
    image_pull_secrets: list[Label] = Field(default_factory=list)
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pools: Annotated[dict[Label, PoolSpec], Mapping] = Field(default_factory=dict)
    """Pools that depart from the convention. A pool that is not named here follows it."""
    env: list[EnvSpec] = Field(default_factory=list)
    """For all step pods, e.g. a proxy or a token by reference."""
    trainer: Annotated[TrainerSpec, Mapping] = TrainerSpec()
    chain_steps: bool = False
    """Run chains of CPU steps of one pool and image in one pod. A pod costs 10 to 20 s in KFP."""
    step_retries: Annotated[int, Field(ge=0, le=20)] = 2
    """How often KFP starts the pod of a step again that was lost, on top of the retries by which
    the step itself meets temporary faults."""


def load_context(path: Path) -> ContextDocument:
    """Read and check a context file.

    Raises:
        UserError: with every problem of the file.
    """
    document = read_document(path)
    problems = document.problems + form_problems(ContextDocument, document.value, document)
    sound = None
    if not problems:
        sound = ContextDocument.model_validate(document.value)
        problems = [document.problem(*conflict) for conflict in _conflicts(sound)]
    if problems or sound is None:
        raise refused(document.file, problems)
    return sound


def _conflicts(context: ContextDocument) -> Iterator[tuple[str, str, str]]:
    """Path, message and fix of what the form of single fields cannot rule out."""
    if context.metadata.name == LOCAL_CONTEXT:
        yield "metadata.name", f"{LOCAL_CONTEXT!r} is this machine.", "Choose another name."
    api = context.pipelines.api
    if isinstance(api, UrlAccessSpec) and api.token is not None:
        yield from _not_one("pipelines.api.token", api.token, ("env", "file"))
    yield from _places(context)
    yield from _forwards(context)
    for index, variable in enumerate(context.env):
        yield from _not_one(f"env[{index}]", variable, ("value", "secret", "config_map"))
        if variable.name in RESERVED_ENV or variable.name.startswith("CRUCIBLE_"):
            message = f"{variable.name} is set by the engine."
            yield f"env[{index}].name", message, "Use the context's own fields for it."


def _places(context: ContextDocument) -> Iterator[tuple[str, str, str]]:
    """Files are named from the root or the home folder: a context is used from everywhere."""
    api = context.pipelines.api
    named = {"kubernetes.kubeconfig": context.kubernetes.kubeconfig}
    if isinstance(api, UrlAccessSpec):
        named["pipelines.api.ca_file"] = api.ca_file
        named["pipelines.api.token.file"] = api.token.file if api.token is not None else None
    for path, value in named.items():
        if value is not None and not value.startswith(("/", "~/")):
            yield path, f"got {value!r}, which depends on the folder.", "Begin with / or ~/."


def _forwards(context: ContextDocument) -> Iterator[tuple[str, str, str]]:
    """A forward ends at 127.0.0.1, which is in no service's certificate."""
    store, mlflow = context.store, context.mlflow
    if (
        store.forward
        and not store.client_endpoint
        and (store.endpoint or "https").startswith("https")
    ):
        fix = "Set client_endpoint, or an endpoint with http://."
        yield "store.forward", "leads to an endpoint with TLS, or to AWS.", fix
    if mlflow and mlflow.forward and not mlflow.client_uri and mlflow.uri.startswith("https"):
        yield "mlflow.forward", "leads to an address with TLS.", "Set client_uri instead."


def _not_one(path: str, holder: Spec, names: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    given = [name for name in names if getattr(holder, name) is not None]
    if len(given) != 1:
        yield path, f"sets {' and '.join(given) or 'none'} of {', '.join(names)}.", "Set one."
