"""A cluster's context, and compiled pipelines checked by KFP's own definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crucible.artifacts import Store, open_store
from crucible.engines.kfp.api import PipelinesApi
from crucible.engines.kfp.compile import Options, compile_plan
from crucible.engines.kfp.document import to_yaml
from crucible.plan import Plan
from crucible.specs.context import ContextDocument, load_context
from crucible.testing.kfp_server import KfpServer, kfp_server

IMAGES = {name: f"registry/{name}@sha256:{digit * 64}" for name, digit in zip(
    ("base", "cluster", "train", "eval", "serve"), "01234", strict=True)}  # fmt: skip
HEAD = f"""
apiVersion: crucible/v1
kind: Context
metadata: {{name: test}}
store: {{uri: s3://crucible/store, endpoint: "http://store.crucible-system:8333"}}
images: {{{", ".join(f'{name}: "{ref}"' for name, ref in IMAGES.items())}}}
"""

MakeContext = Callable[..., ContextDocument]
Json = dict[str, Any]


@pytest.fixture
def make_context(tmp_path: Path) -> MakeContext:
    """The context of a file with those further lines."""

    def make_context(*lines: str) -> ContextDocument:
        path = tmp_path / "context.yaml"
        path.write_text("\n".join([HEAD, *lines]))
        return load_context(path)

    return make_context


@dataclass
class Compiled:
    """A compiled pipeline, to look into."""

    pipeline: Json
    platform: Json

    @property
    def root(self) -> Json:
        return self.pipeline["root"]["dag"]["tasks"]

    def tasks_of(self, component: str) -> Json:
        return self.pipeline["components"][component]["dag"]["tasks"]

    def constants(self, task: Json) -> Json:
        """Values that a task is given when it is compiled."""
        parameters = task["inputs"]["parameters"]
        return {
            name: value["runtimeValue"]["constant"]
            for name, value in parameters.items()
            if "runtimeValue" in value
        }

    def executor(self, name: str) -> Json:
        return self.pipeline["deploymentSpec"]["executors"][f"exec-{name}"]["container"]

    def kubernetes(self, name: str) -> Json:
        executors = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        return executors[f"exec-{name}"]


@pytest.fixture
def compile_it(tmp_path: Path) -> Callable[..., Compiled]:
    """Compiles a plan; KFP's loader and protos must take the result."""

    def compile_it(plan: Plan, context: ContextDocument, **options: Any) -> Compiled:
        import kfp.components
        from google.protobuf import json_format
        from kfp.kubernetes import kubernetes_executor_config_pb2
        from kfp.pipeline_spec import pipeline_spec_pb2

        document = compile_plan(plan, context, Options(**options))
        json_format.ParseDict(document.pipeline(), pipeline_spec_pb2.PipelineSpec())
        for config in document.kubernetes.values():
            json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        path = tmp_path / "compiled.yaml"
        path.write_text(to_yaml(document))
        assert kfp.components.load_component_from_file(str(path)).name == plan.name
        return Compiled(document.pipeline(), document.platform())

    return compile_it


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    with kfp_server() as server:
        yield server


@pytest.fixture
def api(kfp: KfpServer) -> PipelinesApi:
    """A client that does not wait between tries."""
    return PipelinesApi(kfp.url, "kubeflow", sleep=lambda seconds: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())
