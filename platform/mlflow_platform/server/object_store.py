"""A folder of an S3 bucket as named byte streams, written and read with flat memory.

Endpoint and login come from the variables that MLflow's own S3 client reads (MLFLOW_S3_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION, ...), so that whatever lets the servers in lets this in.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlflow_platform.errors import BadInput, Rejected, Transient

#: Size of a part of a large object whose size is not known, in bytes: 10,000 parts, S3's limit, make 312 GiB.
PART = 32 * 1024 * 1024
#: The smallest part where the size is known, and in how many parts that goes at most. A part is in memory
#: twice while it is sent.
SMALLEST_PART, _PARTS = 8 * 1024 * 1024, 5000
#: Keys a DeleteObjects request may name (S3's limit).
BATCH = 1000
#: Answers that say "not now", whatever their status (S3 API reference, List of error codes).
PASSING = frozenset(
    {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "503", "500"}
)
_URI = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]+)(?:/(.*))?")


class Readable(Protocol):
    """A stream of bytes; `read` returns b"" at its end."""

    def read(self, size: int = ..., /) -> bytes: ...


@dataclass(frozen=True)
class Folder:
    """Objects below `s3://bucket/prefix`, named without the prefix, which is empty or ends in a slash."""

    bucket: str
    prefix: str
    client: Any = field(repr=False, compare=False)

    @classmethod
    def of(cls, uri: str) -> Folder:
        """`BadInput` unless it is `s3://BUCKET[/PREFIX]`."""
        found = _URI.fullmatch(uri)
        if found is None:
            raise BadInput(f"{uri!r} is no place for objects", remedy="write s3://BUCKET/PREFIX")
        prefix = (found[2] or "").strip("/")
        return cls(found[1], f"{prefix}/" if prefix else "", _client())

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def names(self, start: str = "") -> Iterator[str]:
        """Names of all objects, or of those that start so, in alphabetical order."""
        with plainly(str(self)):
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + start):
                for found in page.get("Contents", []):
                    yield found["Key"].removeprefix(self.prefix)

    @contextlib.contextmanager
    def writing(self, name: str, size: int | None = None) -> Iterator[Upload]:
        """A new object: there when the block has ended, and not at all if the block raises. `size`: about how
        many bytes it will have."""
        part = PART if size is None else max(SMALLEST_PART, size // _PARTS)
        upload = Upload(self.client, self.bucket, self.prefix + name, part)
        try:
            yield upload
            upload.finish()
        except BaseException:
            upload.abort()
            raise

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Readable]:
        with plainly(f"{self}{name}"):
            body = self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"]
            with contextlib.closing(body):
                yield body

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; `Rejected` names the first that the store kept."""
        keys = [self.prefix + name for name in names]
        for start in range(0, len(keys), BATCH):
            wanted = {"Objects": [{"Key": k} for k in keys[start : start + BATCH]], "Quiet": True}
            with plainly(str(self)):
                errors = self.client.delete_objects(Bucket=self.bucket, Delete=wanted).get("Errors")
            if errors:
                raise Rejected(f"s3://{self.bucket}/{errors[0]['Key']} stays: {errors[0].get('Message')}")

    def abort_uploads(self) -> None:
        """Forget the parts of objects that a killed writer left unfinished: paid for, and never listed."""
        with plainly(str(self)):
            found = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.prefix)
            for one in found.get("Uploads", []):
                place = {"Bucket": self.bucket, "Key": one["Key"], "UploadId": one["UploadId"]}
                self.client.abort_multipart_upload(**place)


@dataclass
class Upload:
    """One object on its way: in one request if it fits into a part, else in many."""

    client: Any
    bucket: str
    key: str
    part: int = PART
    _pending: bytearray = field(default_factory=bytearray)
    _etags: list[str] = field(default_factory=list)
    _id: str = ""

    def write(self, data: bytes) -> int:
        self._pending += data
        while len(self._pending) >= self.part:
            with memoryview(self._pending) as pending:
                part = bytes(pending[: self.part])
            self._send(part)
            del self._pending[: self.part]
        return len(data)

    def finish(self) -> None:
        if self._id and self._pending:
            self._send(bytes(self._pending))
        with plainly(f"s3://{self.bucket}/{self.key}"):
            if self._id:
                parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(self._etags, 1)]
                self.client.complete_multipart_upload(**self._place, MultipartUpload={"Parts": parts})
            else:
                self.client.put_object(Bucket=self.bucket, Key=self.key, Body=bytes(self._pending))

    def abort(self) -> None:
        if self._id:
            with contextlib.suppress(Exception):  # what failed before is what matters
                self.client.abort_multipart_upload(**self._place)

    @property
    def _place(self) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.key, "UploadId": self._id}

    def _send(self, part: bytes) -> None:
        with plainly(f"s3://{self.bucket}/{self.key}"):
            if not self._id:
                made = self.client.create_multipart_upload(Bucket=self.bucket, Key=self.key)
                self._id = made["UploadId"]
            number = len(self._etags) + 1
            sent = self.client.upload_part(**self._place, PartNumber=number, Body=part)
            self._etags.append(sent["ETag"])


def _client() -> Any:
    import boto3
    from botocore.config import Config

    try:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None,
            # As MLflow's own (mlflow/store/artifact/s3_artifact_repo.py), more patient.
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": os.environ.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "auto")},
                connect_timeout=5,
                read_timeout=60,
                retries={"mode": "standard", "total_max_attempts": 6},
            ),
        )
    except ValueError as error:  # botocore's word for an endpoint that is no URL
        raise BadInput(str(error), remedy="correct MLFLOW_S3_ENDPOINT_URL") from error


@contextlib.contextmanager
def plainly(what: str) -> Iterator[None]:
    """botocore's errors as ours: `Rejected` with S3's code, `Transient` where the store was not reached."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        found = error.response.get("Error", {})
        code, status = found.get("Code", ""), error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        text = f"{what}: {error.operation_name}: {code} {found.get('Message', '')}".strip()
        if status >= 500 or status == 429 or code in PASSING:
            raise Transient(text, remedy="the object store is busy or ill: try again") from error
        raise Rejected(
            text, code=code, remedy="check the bucket, and what its policy allows this login"
        ) from error
    except NoCredentialsError as error:
        raise Rejected(
            f"{what}: no login for the object store",
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod an identity",
        ) from error
    except BotoCoreError as error:
        raise Transient(f"{what}: {error}", remedy="check endpoint and network") from error
