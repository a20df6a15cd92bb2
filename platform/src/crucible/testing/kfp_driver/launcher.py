"""A double of KFP's launcher: what stands around the user's command in the pod of a task.

It downloads input artifacts, makes the folders of outputs, fills the placeholders in, runs the
command, and uploads what it left, in the order and with the strictness of ``launcher-v2``. Where
that tells the metadata store, this writes an object that the driver reads. It is one file that
needs nothing of Crucible, so that it can be mounted into a pod; the image has Python, and minio
for a bucket that is no folder.

As the first process of a container it also stands in for Argo's executor: it passes SIGTERM on to
the group of the user's process and is gone a second later.

Source: ``backend/src/v2/component/launcher_v2.go`` of Kubeflow Pipelines, and
``cmd/argoexec/commands/emissary.go`` of Argo Workflows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

Json = dict[str, Any]

ENV_PREFIX = "KFP_LAUNCHER_"
"""Of the variables that tell where the bucket is; the user's command does not see them."""
LOGS = "executor-logs"
_SCHEMES = {"s3://": "/s3/", "minio://": "/minio/", "gs://": "/gcs/"}
_SIGTERM_PATIENCE_SECONDS = 1.0


class TaskFailed(Exception):
    """The task has failed; the message is what the launcher logs."""


class Bucket(Protocol):
    """Objects by ``bucket/key``."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys that begin with ``prefix``."""

    def download(self, key: str, path: Path) -> None:
        """Copy an object into a file."""

    def upload(self, path: Path, key: str) -> None:
        """Copy a file into an object."""


class FolderBucket:
    """Objects as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keys(self, prefix: str) -> Iterator[str]:
        for path in sorted((self._folder / prefix).parent.rglob("*")):
            key = path.relative_to(self._folder).as_posix()
            if path.is_file() and key.startswith(prefix):
                yield key

    def download(self, key: str, path: Path) -> None:
        shutil.copyfile(self._folder / key, path)

    def upload(self, path: Path, key: str) -> None:
        target = self._folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(path, partial)
        partial.rename(target)


class S3Bucket:
    """Objects of an S3 server."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str) -> None:
        import minio

        scheme, _, address = endpoint.partition("://")
        self._client = minio.Minio(
            address, access_key=access_key, secret_key=secret_key, secure=scheme == "https",
            region="us-east-1",
        )  # fmt: skip

    def keys(self, prefix: str) -> Iterator[str]:
        bucket, _, start = prefix.partition("/")
        for item in self._client.list_objects(bucket, prefix=start, recursive=True):
            yield f"{bucket}/{item.object_name}"

    def download(self, key: str, path: Path) -> None:
        bucket, _, name = key.partition("/")
        self._client.fget_object(bucket, name, str(path))

    def upload(self, path: Path, key: str) -> None:
        bucket, _, name = key.partition("/")
        self._client.fput_object(bucket, name, str(path))


def open_bucket(environ: Mapping[str, str]) -> Bucket:
    """The place that the variables with `ENV_PREFIX` name."""
    folder = environ.get(f"{ENV_PREFIX}FOLDER")
    if folder:
        return FolderBucket(Path(folder))
    names = ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY")
    return S3Bucket(*(environ[f"{ENV_PREFIX}{name}"] for name in names))


def main(argv: Sequence[str]) -> int:
    """Run one attempt of a task; returns the exit code of its container."""
    split = argv.index("--")
    options, command = _parser().parse_args(argv[:split]), list(argv[split + 1 :])
    bucket = open_bucket(os.environ)
    request = json.loads(options.executor_input)
    component = json.loads(options.component_spec)
    _qualify_logs(request)
    result: Json = {"state": "FAILED", "error": "", "parameters": {}, "artifacts": {}}
    try:
        _download_inputs(bucket, request)
        _make_folders(request)
        _run(_filled(command, _with_defaults(request, component)), request)
        output = _executor_output(request)
        result["parameters"] = _output_parameters(request, output, component)
        result["artifacts"] = _upload(bucket, _artifacts(request, "outputs"), output, options)
        result["state"] = "COMPLETE"
    except TaskFailed as failure:
        result["error"] = str(failure)
        print(f"failed to execute component: {failure}", file=sys.stderr)  # noqa: T201
        logs = {LOGS: _artifacts(request, "outputs").get(LOGS, [])}
        result["artifacts"] = _upload(bucket, logs, {}, options)
    _send_json(bucket, result, options.result)
    return 0 if result["state"] == "COMPLETE" else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--executor_input", required=True)
    parser.add_argument("--component_spec", required=True)
    parser.add_argument("--pipeline_root", required=True)
    parser.add_argument("--result", required=True, help="uri of what the driver reads")
    parser.add_argument("--lose", action="append", default=[], help="output file not to upload")
    return parser


def local_path(uri: str) -> Path | None:
    """Where the file of an artifact lies in the pod; None for a scheme that KFP does not know."""
    for scheme, folder in _SCHEMES.items():
        if uri.startswith(scheme):
            return Path(folder + uri.removeprefix(scheme))
    return None


def _key(uri: str) -> str:
    return uri.partition("://")[2]


def _artifacts(request: Json, side: str) -> dict[str, list[Json]]:
    lists = request.get(side, {}).get("artifacts", {})
    return {name: entry.get("artifacts", []) for name, entry in lists.items()}


def _qualify_logs(request: Json) -> None:
    """Each attempt has a log of its own."""
    suffix = f"-{os.environ.get('KFP_RETRY_INDEX') or 0}"
    for artifact in request.get("outputs", {}).get("artifacts", {}).get(LOGS, {})["artifacts"]:
        if not artifact["uri"].endswith(suffix):
            artifact["uri"] += suffix


def _with_defaults(request: Json, component: Json) -> Json:
    definitions = component.get("inputDefinitions", {}).get("parameters", {})
    defaults = {n: d["defaultValue"] for n, d in definitions.items() if "defaultValue" in d}
    inputs = request.get("inputs", {})
    values = {**defaults, **inputs.get("parameterValues", {})}
    return {**request, "inputs": {**inputs, "parameterValues": values}}


def _download_inputs(bucket: Bucket, request: Json) -> None:
    for entries in _artifacts(request, "inputs").values():
        for artifact in entries:
            place, key = local_path(artifact["uri"]), _key(artifact["uri"]).rstrip("/")
            if place is None:
                raise TaskFailed(f"parse bucket config failed: {artifact['uri']!r}")
            for found in bucket.keys(key):
                if found == key or found.startswith(f"{key}/"):
                    target = place / found[len(key) + 1 :] if found != key else place
                    target.parent.mkdir(parents=True, exist_ok=True)
                    bucket.download(found, target)


def _make_folders(request: Json) -> None:
    for parameter in request.get("outputs", {}).get("parameters", {}).values():
        Path(parameter["outputFile"]).parent.mkdir(parents=True, exist_ok=True)
    for name, entries in _artifacts(request, "outputs").items():
        for artifact in entries:
            place = local_path(artifact["uri"])
            if place is None:
                raise TaskFailed(f"no local storage path for output artifact {name!r}")
            place.parent.mkdir(parents=True, exist_ok=True)


def _filled(command: list[str], request: Json) -> list[str]:
    """The command line with its placeholders filled in; the program's name takes only ``{{$}}``."""
    whole = json.dumps(request, ensure_ascii=False)
    placeholders = _placeholders(request)
    filled = [part.replace("{{$}}", whole) for part in command]
    for placeholder, text in placeholders.items():
        filled[1:] = [part.replace(placeholder, text) for part in filled[1:]]
    return filled


def _placeholders(request: Json) -> dict[str, str]:
    found: dict[str, str] = {}
    for side in ("inputs", "outputs"):
        for name, entries in _artifacts(request, side).items():
            if entries:
                head = f"{{{{$.{side}.artifacts['{name}']"
                found[f"{head}.uri}}}}"] = entries[0]["uri"]
                place = local_path(entries[0]["uri"])
                if place is not None:
                    found[f"{head}.path}}}}"] = str(place)
    for name, value in request["inputs"]["parameterValues"].items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        found[f"{{{{$.inputs.parameters['{name}']}}}}"] = text
    for name, parameter in request.get("outputs", {}).get("parameters", {}).items():
        file = parameter["outputFile"]
        found[f"{{{{$.outputs.parameters['{name}'].output_file}}}}"] = file
    return found


def _run(command: list[str], request: Json) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
    entries = _artifacts(request, "outputs").get(LOGS)
    place = local_path(entries[0]["uri"]) if entries else None
    # Until the process is known, SIGTERM waits: the first process of a container has no default.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            process_group=0, preexec_fn=_unblock_sigterm,
        )  # fmt: skip
    except OSError as error:
        raise TaskFailed(f"fork/exec {command[0]}: {error.strerror}") from error
    _pass_sigterm_on(process)
    with open(place or os.devnull, "wb") as log:
        _tee(process.stdout, log)
    code = process.wait()
    if code:
        how = f"exit status {code}" if code > 0 else f"signal: {-code}"
        raise TaskFailed(f"Component failed to execute successfully: {how}")


def _tee(source: IO[bytes] | None, log: IO[bytes]) -> None:
    while source is not None and (data := os.read(source.fileno(), 1 << 16)):
        log.write(data)
        os.write(sys.stdout.fileno(), data)


def _pass_sigterm_on(process: subprocess.Popen[bytes]) -> None:
    def end(number: int, frame: object) -> None:
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(_SIGTERM_PATIENCE_SECONDS)  # the launcher itself is dead by now: no upload
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    _unblock_sigterm()


def _unblock_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _executor_output(request: Json) -> Json:
    path = Path(request["outputs"]["outputFile"])
    if not path.exists():
        return {}
    try:
        value: Json = json.loads(path.read_text())
    except ValueError as error:
        raise TaskFailed(f"failed to unmarshall ExecutorOutput in file {path}: {error}") from error
    if unknown := value.keys() - {"parameterValues", "artifacts"}:
        raise TaskFailed(f"failed to unmarshall ExecutorOutput: unknown field {sorted(unknown)}")
    return value


def _output_parameters(request: Json, output: Json, component: Json) -> Json:
    values = dict(output.get("parameterValues", {}))
    definitions = component.get("outputDefinitions", {}).get("parameters", {})
    for name, parameter in request["outputs"].get("parameters", {}).items():
        if name in values:
            continue
        path, kind = parameter["outputFile"], definitions[name]["parameterType"]
        try:
            values[name] = _parsed(Path(path).read_text(), kind)
        except (OSError, ValueError) as error:
            where = f'name="{name}" type="{kind}" path="{path}"'
            raise TaskFailed(f"failed to read output parameter {where}: {error}") from error
    return values


def _parsed(text: str, kind: str) -> Any:
    if kind == "STRING":
        return text
    if kind == "NUMBER_INTEGER":
        return int(text.strip())
    if kind == "NUMBER_DOUBLE":
        return float(text.strip())
    if kind == "BOOLEAN":
        return {"true": True, "false": False}[text.strip().lower()]
    return json.loads(text)


def _upload(
    bucket: Bucket,
    artifacts: Mapping[str, list[Json]],
    output: Json,
    options: argparse.Namespace,
) -> Json:
    """Upload what was written; what was not is registered all the same."""
    registered: Json = {}
    told = _artifacts({"outputs": output}, "outputs")
    for name, entries in artifacts.items():
        for artifact in entries:
            if name != LOGS and told.get(name):
                _merge(artifact, told[name][0])
            written = _upload_one(bucket, name, artifact, options)
            if written or name != LOGS:
                registered[name] = artifact
    return registered


def _merge(artifact: Json, told: Json) -> None:
    if told.get("uri"):
        artifact["uri"] = told["uri"]
    if told.get("metadata") is not None:
        artifact["metadata"] = {**artifact.get("metadata", {}), **told["metadata"]}


def _upload_one(bucket: Bucket, name: str, artifact: Json, options: argparse.Namespace) -> bool:
    uri = artifact["uri"]
    place = local_path(uri)
    if place is None:
        return False
    if not uri.startswith(options.pipeline_root):
        raise TaskFailed(
            f'failed to upload output artifact "{name}": URI "{uri}" does not have expected bucket '
            f'prefix "{options.pipeline_root}"'
        )
    if not place.exists() or name in options.lose:
        return False
    if place.is_file():
        bucket.upload(place, _key(uri))
        return True
    for path in sorted(place.rglob("*")):
        if path.is_file():
            bucket.upload(path, f"{_key(uri)}/{path.relative_to(place).as_posix()}")
    return True


def _send_json(bucket: Bucket, value: Json, uri: str) -> None:
    path = Path("/s3/.result.json")
    path.write_text(json.dumps(value))
    bucket.upload(path, _key(uri))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
