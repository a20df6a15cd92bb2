"""The MLmodel folder of a version: a few kilobytes that name the weights and hold none."""

from __future__ import annotations

import platform
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from crucible.artifacts.manifest import ArtifactRef

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

LOADER_MODULE: Final = "crucible_components.serving.pyfunc"
REFERENCE_FILE: Final = "artifact.json"
MAX_NEW_TOKENS: Final = 64
"""What ``predict`` generates at most unless its caller says otherwise."""
DISTRIBUTION: Final = "crucible-platform"


def write_model_folder(folder: Path, model: ArtifactRef, mlflow_run_id: str) -> None:
    """Write what ``mlflow.pyfunc.load_model`` needs: MLmodel, reference, requirements.

    No pickle is in it: MLflow calls the loader module, which reads the reference, opens the store
    and loads the safetensors in place.
    """
    from mlflow.models import Model

    requirement = f"{DISTRIBUTION}[train]=={installed_version(DISTRIBUTION)}"
    (folder / "requirements.txt").write_text(f"{requirement}\n")
    (folder / "python_env.yaml").write_text(
        f"python: {platform.python_version()}\ndependencies:\n- -r requirements.txt\n"
    )
    model.write(folder / REFERENCE_FILE)
    description: dict[str, Any] = {"digest": model.digest, "variant": model.manifest.variant}
    mlmodel = Model(
        artifact_path="model",
        run_id=mlflow_run_id,
        signature=signature_for(model.manifest.variant),
        metadata={"crucible": description},
    )
    mlmodel.add_flavor(
        "python_function",
        loader_module=LOADER_MODULE,
        data=REFERENCE_FILE,
        env={"virtualenv": "python_env.yaml"},
        python_version=platform.python_version(),
    )
    mlmodel.save(str(folder / "MLmodel"))


def signature_for(variant: str) -> ModelSignature:
    """What ``predict`` takes and gives: questions, with pictures for a model that sees."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    columns: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "question")]
    if variant == "vision-language":
        # PNG or JPEG bytes; base64 in JSON requests, as MLflow's scoring server does it.
        columns.insert(0, ColSpec(DataType.binary, "image", required=False))
    return ModelSignature(
        inputs=Schema(columns),
        outputs=Schema([ColSpec(DataType.string, "answer")]),
        params=ParamSchema([ParamSpec("max_new_tokens", DataType.integer, MAX_NEW_TOKENS)]),
    )


def weights_sha256(model: ArtifactRef) -> str | None:
    """Digest of the safetensors: the file's own, or over ``sha256  path`` lines of many."""
    import hashlib

    files = [entry for entry in model.manifest.files if entry.path.endswith(".safetensors")]
    if len(files) <= 1:
        return files[0].sha256 if files else None
    lines = "".join(f"{entry.sha256}  {entry.path}\n" for entry in files)
    return hashlib.sha256(lines.encode()).hexdigest()
