"""A bucket and prefix seen through the `minio` client: retries, and errors of our tree.

Requests are retried by urllib3 with backoff and jitter, and here when a body breaks off, which
urllib3 leaves to its caller. What remains is typed: temporary, full, or the user's to fix.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from crucible.artifacts.backend import Document, Stored
from crucible.errors import ArtifactError, CrucibleError, StoreFull, StoreUnavailable, UserError

if TYPE_CHECKING:
    import minio

PART_BYTES = 16 << 20
PARALLEL_PARTS = 3
"""Parts in flight: an upload holds this many and one more in memory."""

_MAX_PARTS = 10_000  # S3's limit
_FULL_CODES = frozenset({"XMinioStorageFull", "InsufficientStorage", "QuotaExceeded"})
_MISSING_CODES = frozenset({"NoSuchKey", "ResourceNotFound"})
_SETUP_CODES = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "NoSuchBucket"}
)
_LOST_ANSWER_CODES = frozenset({"NoSuchUpload"})
"""What a retried request meets when the first one was done but its answer got lost."""
_RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Patience:
    """How long a server may fail before it counts as unavailable."""

    retries: int = 6
    backoff_seconds: float = 0.2
    max_backoff_seconds: float = 8.0
    connect_seconds: float = 5.0
    read_seconds: float = 60.0


PATIENCE = Patience()


@dataclass(frozen=True)
class ObjectStatus:
    """What a HEAD request tells."""

    size_bytes: int
    etag: str


class SizeDiffers(Exception):
    """An object is longer or shorter than it should be."""

    def __str__(self) -> str:
        return f"it has {self.args[0]} bytes" if self.args else "it is shorter"


class S3Client:
    """Objects under ``s3://bucket/prefix``. Keys are relative to the prefix."""

    def __init__(
        self, connect: Callable[[], minio.Minio], bucket: str, prefix: str, patience: Patience
    ) -> None:
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._connect = connect
        self._connected: tuple[int, minio.Minio] | None = None
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._patience = patience

    @classmethod
    def connect(
        cls, bucket: str, prefix: str, environ: Mapping[str, str], patience: Patience
    ) -> S3Client:
        """A client for an existing bucket.

        Raises:
            UserError: bad endpoint, no credentials, access denied, or no such bucket.
            StoreUnavailable: the server does not answer.
        """
        frozen = dict(environ)
        client = cls(lambda: _minio_client(frozen, patience), bucket, prefix, patience)
        with client.typed("open the store"):
            if client._minio.bucket_exists(bucket):
                return client
        raise UserError(
            f"store {client.uri}: there is no bucket {bucket!r}. Create it, or set CRUCIBLE_STORE "
            "and CRUCIBLE_S3_ENDPOINT to the right place."
        )

    def place(self, key: str) -> str:
        """The object's URI, for messages."""
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def head(self, key: str) -> ObjectStatus | None:
        with contextlib.suppress(FileNotFoundError), self.typed(f"look at {key}"):
            status = self._minio.stat_object(*self._named(key))
            return ObjectStatus(status.size or 0, status.etag or "")
        return None

    def get(self, key: str) -> Document | None:
        """A whole small object, or None."""
        with contextlib.suppress(FileNotFoundError), self.typed(f"read {key}"):
            for attempt in self._attempts():
                with attempt, self._opened(key) as response:
                    data: bytes = response.read()
                    return Document(data, _age_seconds(response.headers))
        return None

    def get_range(self, key: str, offset: int, length: int, size_bytes: int) -> bytes:
        """A range of an object that should have ``size_bytes``.

        Raises:
            FileNotFoundError: no such object.
            SizeDiffers: the object has another size.
        """
        with self.typed(f"read {key}"):
            if not length:
                _check_size(size_bytes, self._minio.stat_object(*self._named(key)).size)
                return b""
            for attempt in self._attempts():
                with attempt, self._opened(key, offset, length) as response:
                    _check_size(size_bytes, int(response.headers["Content-Range"].split("/")[1]))
                    data: bytes = response.read()
                    return data
        raise AssertionError("the last attempt returns or raises")

    def put(self, key: str, data: bytes) -> float:
        """Write a small object; returns the server's time, in seconds since the epoch."""
        with self.typed(f"write {key}"):
            result = self._minio.put_object(*self._named(key), io.BytesIO(data), len(data))
            return _server_time(result.http_headers)

    def upload(self, key: str, source: Path, size_bytes: int) -> str:
        """Write a local file, in parts if it is large; returns the object's ETag."""
        part_bytes = max(PART_BYTES, -(-size_bytes // _MAX_PARTS))
        with source.open("rb") as stream, self.typed(f"upload {key}"):
            result = self._minio.put_object(
                *self._named(key),
                stream,
                size_bytes,
                part_size=part_bytes,
                num_parallel_uploads=PARALLEL_PARTS,
            )
            return result.etag or ""

    def listing(self, prefix: str) -> Iterator[Stored]:
        with self.typed(f"list {prefix}"):
            found = self._minio.list_objects(self._bucket, self._prefix + prefix, recursive=True)
            for item in found:
                if not item.is_dir and item.object_name and item.last_modified:
                    key = item.object_name.removeprefix(self._prefix)
                    yield Stored(key, item.size or 0, item.last_modified.timestamp())

    def remove(self, keys: Sequence[str]) -> None:
        from minio.deleteobjects import DeleteObject

        with self.typed("remove objects"):
            wanted = [DeleteObject(self._prefix + key) for key in keys]
            for error in self._minio.remove_objects(self._bucket, wanted):
                raise ArtifactError(
                    f"{self.uri}: cannot remove {error.name}: {error.code} {error.message}. "
                    "Check that this user may delete objects."
                )

    def abandoned_uploads(self, before: float) -> list[tuple[str, str]]:
        """Keys and ids of multipart uploads begun before a time: their writers are gone."""
        with self.typed("list unfinished uploads"):
            # minio 7 offers no public call for this since it dropped list_incomplete_uploads.
            listing = self._minio._list_multipart_uploads(self._bucket, prefix=self._prefix)
        return [
            (upload.object_name, upload.upload_id or "")
            for upload in listing.uploads
            if upload.initiated_time and upload.initiated_time.timestamp() <= before
        ]

    def abort_upload(self, object_name: str, upload_id: str) -> None:
        with self.typed("abort an unfinished upload"), contextlib.suppress(FileNotFoundError):
            self._minio._abort_multipart_upload(self._bucket, object_name, upload_id)

    @contextlib.contextmanager
    def typed(self, action: str) -> Iterator[None]:
        """Give what escapes the client a type; a missing object is `FileNotFoundError`."""
        import minio.error
        import urllib3.exceptions

        try:
            yield
        except (CrucibleError, FileNotFoundError):
            raise
        except minio.error.S3Error as error:
            raise self._from_code(action, error) from error
        except (minio.error.MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unavailable(action, str(error)) from error

    @property
    def _minio(self) -> minio.Minio:
        """The client of this process: a forked child must not share its parent's connections."""
        if self._connected is None or self._connected[0] != os.getpid():
            self._connected = (os.getpid(), self._connect())
        return self._connected[1]

    def _named(self, key: str) -> tuple[str, str]:
        return self._bucket, self._prefix + key

    def _from_code(self, action: str, error: Any) -> Exception:
        status = getattr(error.response, "status", 0)
        said = f"{error.code}: {error.message}"
        if error.code in _MISSING_CODES:
            return FileNotFoundError(said)
        if status == 416:
            return SizeDiffers()
        if error.code in _FULL_CODES or status == 507:
            return StoreFull(
                f"cannot {action} in {self.uri}: no space left ({said}). Run `platformctl "
                "artifacts gc`, or ask for more space or a larger quota."
            )
        if error.code in _SETUP_CODES:
            return UserError(
                f"cannot {action} in {self.uri}: {said}. Check AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY, CRUCIBLE_S3_ENDPOINT and the bucket's name and policy."
            )
        if status in _RETRIED_STATUSES or error.code in _LOST_ANSWER_CODES:
            return self._unavailable(action, said)
        return ArtifactError(f"cannot {action} in {self.uri}: the server refused it: {said}.")

    def _unavailable(self, action: str, said: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"cannot {action} in {self.uri}: {said}. Check that the server is up and has space "
            "left, and that CRUCIBLE_S3_ENDPOINT names it, then try again."
        )

    @contextlib.contextmanager
    def _opened(self, key: str, offset: int = 0, length: int = 0) -> Iterator[Any]:
        response = self._minio.get_object(*self._named(key), offset, length)
        try:
            yield response
        finally:
            response.close()
            response.release_conn()

    def _attempts(self) -> Iterator[contextlib.AbstractContextManager[None]]:
        """Blocks to run until one leaves the loop: a body that breaks off ends only its block."""
        for failures in range(self._patience.retries):
            if failures:
                ceiling = self._patience.backoff_seconds * 2**failures
                time.sleep(random.uniform(0, min(ceiling, self._patience.max_backoff_seconds)))
            yield _broken_body_is_retried()
        yield contextlib.nullcontext()


def _check_size(wanted_bytes: int, found_bytes: int | None) -> None:
    if found_bytes != wanted_bytes:
        raise SizeDiffers(found_bytes)


@contextlib.contextmanager
def _broken_body_is_retried() -> Iterator[None]:
    import urllib3.exceptions

    try:
        yield
    except urllib3.exceptions.MaxRetryError:
        raise  # the request itself was retried already
    except (urllib3.exceptions.ProtocolError, urllib3.exceptions.TimeoutError):
        pass  # the caller's loop continues


def _minio_client(environ: Mapping[str, str], patience: Patience) -> minio.Minio:
    import certifi
    import minio
    import urllib3

    retry = urllib3.Retry(
        total=patience.retries,
        backoff_factor=patience.backoff_seconds,
        backoff_max=patience.max_backoff_seconds,
        backoff_jitter=patience.backoff_seconds,
        status_forcelist=_RETRIED_STATUSES,
        allowed_methods=None,
        raise_on_status=False,
    )
    host, is_secure = _endpoint(environ)
    return minio.Minio(
        host,
        secure=is_secure,
        region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        credentials=_credentials(environ),
        http_client=urllib3.PoolManager(
            maxsize=16,
            timeout=urllib3.Timeout(connect=patience.connect_seconds, read=patience.read_seconds),
            retries=retry,
            ca_certs=environ.get("SSL_CERT_FILE") or certifi.where(),
        ),
    )


def _endpoint(environ: Mapping[str, str]) -> tuple[str, bool]:
    for name in ("CRUCIBLE_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if url := environ.get(name):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
                raise UserError(f"{name}={url!r}: must be http://HOST:PORT or https://HOST.")
            return parts.netloc, parts.scheme == "https"
    return "s3.amazonaws.com", True


def _credentials(environ: Mapping[str, str]) -> Any:
    from minio.credentials.providers import IamAwsProvider, StaticProvider

    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        return StaticProvider(key, secret, environ.get("AWS_SESSION_TOKEN"))
    if environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") or environ.get(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    ):
        return IamAwsProvider()
    raise UserError(
        "s3:// needs credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a "
        "service account that is given a role."
    )


def _server_time(headers: Mapping[str, str]) -> float:
    stated = headers.get("Date")
    return parsedate_to_datetime(stated).timestamp() if stated else time.time()


def _age_seconds(headers: Mapping[str, str]) -> float:
    return _server_time(headers) - parsedate_to_datetime(headers["Last-Modified"]).timestamp()
