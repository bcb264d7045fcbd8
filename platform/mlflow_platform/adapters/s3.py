"""S3 directly: objects as streams; pages of keys, and deletions in bulk with an answer for each key."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mlflow_platform.adapters.object_store import MOST_KEYS, Found, Page, Refusal
from mlflow_platform.adapters.trees import GONE, Stat
from mlflow_platform.errors import BadInput, Rejected
from mlflow_platform.server.dump import Sink, Source
from mlflow_platform.server.object_store import PASSING, Folder, plainly

#: Answers to a PUT with If-None-Match where something is there, or is being written.
_TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412"})
_TRIES = 5
#: What keys may hold and XML 1.0 may not (W3C, Extensible Markup Language, production 2), by which
#: DeleteObjects names them.
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class S3Login:
    """How to reach an S3 API. None leaves a value to boto3: environment, files, workload identity."""

    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)


def connect(login: S3Login, workers: int) -> Any:
    """botocore's client for as many requests at once. Raises `BadInput` for an endpoint that is none."""
    import botocore.session  # boto3 adds transfers of files to it, which nobody needs, and takes time to load
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    core = botocore.session.get_session()
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    try:
        client = core.create_client(
            "s3",
            endpoint_url=login.endpoint,
            region_name=login.region,
            aws_access_key_id=login.access_key,
            aws_secret_access_key=login.secret_key,
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                max_pool_connections=workers + 2,
                retries={"mode": "standard", "total_max_attempts": _TRIES},
            ),
        )
        client.meta.events.register("before-parse.s3.ListObjectsV2", _read_contents)
        return client
    except ValueError as error:  # botocore's word for an endpoint that is no URL
        raise BadInput(str(error), remedy="write the endpoint as https://HOST") from error
    except BotoCoreError as error:  # such as a key without its secret
        raise BadInput(str(error), remedy="correct the store's keys and region") from error


class S3Tree:
    """A bucket, or what is below a prefix of it."""

    def __init__(self, uri: str, login: S3Login, *, workers: int = 8) -> None:
        parts = urlsplit(uri)
        if parts.scheme != "s3" or not parts.netloc:
            raise BadInput(
                f"{uri!r} is no place in S3", remedy="write it as s3://bucket or s3://bucket/prefix"
            )
        prefix = parts.path.strip("/")
        self.uri = uri.rstrip("/")
        self.client = connect(login, workers)
        self.folder = Folder(parts.netloc, f"{prefix}/" if prefix else "", self.client)
        self._versioned: bool | None = None

    def listed(self, prefix: str = "") -> Iterator[Stat]:
        where = {"Bucket": self.folder.bucket, "Prefix": self.folder.prefix + prefix}
        with plainly(self.uri):
            versioned = self._has_versions()
            method = "list_object_versions" if versioned else "list_objects_v2"
            for page in self.client.get_paginator(method).paginate(**where):
                for item in page.get("Versions" if versioned else "Contents", ()):
                    if item.get("IsLatest", True) and not item["Key"].endswith("/"):
                        yield self._stat(item["Key"], item["Size"], item)

    def _stat(self, key: str, size: int, item: Any) -> Stat:
        modified = item["LastModified"].astimezone(datetime.UTC).isoformat(timespec="seconds")
        version = item.get("VersionId") or ""
        # `null` is the version of what was written before the bucket had versions: it may be replaced.
        version = "" if version == "null" else version
        return Stat(key.removeprefix(self.folder.prefix), size, modified, item["ETag"], version)

    def _has_versions(self) -> bool:
        from botocore.exceptions import ClientError

        if self._versioned is None:
            try:
                answer = self.client.get_bucket_versioning(Bucket=self.folder.bucket)
                self._versioned = answer.get("Status") in ("Enabled", "Suspended")
            except ClientError:  # not allowed, or not known to this store
                self._versioned = False
        return self._versioned

    @contextmanager
    def reading(self, key: str, version: str = "") -> Iterator[tuple[Stat, Source]]:
        whole = self.folder.prefix + key
        where = {"Bucket": self.folder.bucket, "Key": whole}
        with plainly(f"{self.uri}/{key}"):
            answer = self.client.get_object(**where, **({"VersionId": version} if version else {}))
            with closing(answer["Body"]) as body:
                yield self._stat(whole, answer["ContentLength"], answer), body

    def writing(self, key: str, size: int | None = None) -> AbstractContextManager[Sink]:
        return self.folder.writing(key, size)

    def delete(self, keys: Iterable[str]) -> None:
        self.folder.delete(keys)

    def clean(self) -> None:
        self.folder.abort_uploads()

    def close(self) -> None:
        self.client.close()


class S3Store:
    """A bucket, or what is below a prefix of it."""

    near = False

    def __init__(self, uri: str, login: S3Login, *, all_versions: bool = False, workers: int = 4) -> None:
        """`uri` is `s3://bucket` or `s3://bucket/prefix`. `all_versions`: list and delete every version."""
        self._tree = S3Tree(uri, login, workers=workers)
        self.uri, self._client = self._tree.uri, self._tree.client
        self._bucket, self._base = self._tree.folder.bucket, self._tree.folder.prefix
        self._all_versions = all_versions

    def page(self, prefix: str, after: tuple[str, str] | None = None, limit: int = MOST_KEYS) -> Page:
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._base + prefix, "MaxKeys": limit}
        with plainly(self.uri):
            if self._all_versions:
                return self._versions(arguments, after)
            if after is not None:
                arguments["StartAfter"] = self._base + after[0]
            answer = self._client.list_objects_v2(**arguments)
        found = [self._found(item) for item in answer.get("Contents", ())]
        return Page(found, (found[-1].key, "") if answer["IsTruncated"] and found else None)

    def _versions(self, arguments: dict[str, Any], after: tuple[str, str] | None) -> Page:
        if after is not None:
            arguments["KeyMarker"] = self._base + after[0]
            if after[1]:
                arguments["VersionIdMarker"] = after[1]
        answer = self._client.list_object_versions(**arguments)
        items = [*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())]
        found = sorted((self._found(item) for item in items), key=lambda one: one.key)
        follows = (
            (answer["NextKeyMarker"][len(self._base) :], answer.get("NextVersionIdMarker", ""))
            if answer["IsTruncated"]
            else None
        )
        return Page(found, follows)

    def _found(self, item: Mapping[str, Any]) -> Found:
        key = item["Key"][len(self._base) :]
        return Found(key, item.get("Size", 0), item["LastModified"], item.get("VersionId", ""))

    def delete(self, objects: Sequence[Found]) -> Mapping[Found, Refusal]:
        final: dict[Found, Refusal] = {}
        passing: dict[Found, Refusal] = {}
        left = objects
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(0.1 * 2**attempt)
            answers = self._delete_once({(self._base + one.key, one.version): one for one in left})
            passing = {one: why for one, why in answers.items() if why.code in PASSING}
            final |= {one: why for one, why in answers.items() if why.code not in PASSING}
            left = list(passing)
            if not left:
                break
        return {**final, **passing}

    def _delete_once(self, objects: Mapping[tuple[str, str], Found]) -> dict[Found, Refusal]:
        refused: dict[Found, Refusal] = {}
        keys = []
        for (key, version), found in objects.items():
            where = {"Key": key, "VersionId": version} if version else {"Key": key}
            if not _NOT_IN_XML.search(key):
                keys.append(where)
            elif why := self._delete_alone(where, found):
                refused[found] = why
        if not keys:
            return refused
        with plainly(self.uri):
            answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": keys, "Quiet": True})
        for error in answer.get("Errors", ()):
            if error.get("Code") == "NoSuchKey":
                continue
            one = objects.get((error["Key"], error.get("VersionId") or ""))
            if one is not None:
                until = self._locked_until(one)
                refused[one] = Refusal(error.get("Code", "Unknown"), error.get("Message", ""), until)
        return refused

    def _delete_alone(self, where: Mapping[str, str], one: Found) -> Refusal | None:
        """Delete an object that no request in bulk can name: with it, all others would be refused, too."""
        from botocore.exceptions import ClientError

        with plainly(self.uri):
            try:
                self._client.delete_object(Bucket=self._bucket, **where)
            except ClientError as error:
                found = error.response["Error"]
                if found.get("Code") in ("NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
                    raise
                until = self._locked_until(one)
                return Refusal(found.get("Code", "Unknown"), found.get("Message", ""), until)
        return None

    def _locked_until(self, one: Found) -> datetime.datetime | None:
        """When a version may be deleted that Object Lock holds; None where no lock does."""
        from botocore.exceptions import BotoCoreError, ClientError

        if not one.version:
            return None
        try:
            answer = self._client.get_object_retention(
                Bucket=self._bucket, Key=self._base + one.key, VersionId=one.version
            )
        except (BotoCoreError, ClientError):
            return None
        until: datetime.datetime | None = answer["Retention"].get("RetainUntilDate")
        return until

    def read(self, key: str) -> bytes | None:
        try:
            with plainly(self.uri):
                answer = self._client.get_object(Bucket=self._bucket, Key=self._base + key)
                body: bytes = answer["Body"].read()
                return body
        except Rejected as error:
            if error.code in GONE:
                return None
            raise

    def reading(self, key: str, version: str = "") -> AbstractContextManager[tuple[Stat, Source]]:
        return self._tree.reading(key, version)

    def writing(self, key: str, size: int | None = None) -> AbstractContextManager[Sink]:
        return self._tree.writing(key, size)

    def create(self, key: str, body: bytes) -> bool:
        try:
            with plainly(self.uri):
                self._client.put_object(Bucket=self._bucket, Key=self._base + key, Body=body, IfNoneMatch="*")
        except Rejected as error:
            if error.code in _TAKEN:
                return False
            raise
        return True

    def abort_uploads(self, before: datetime.datetime) -> int:
        count = 0
        with plainly(self.uri):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._base
            )
            for page in pages:
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] < before:
                        self._client.abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        count += 1
        return count

    def now(self) -> datetime.datetime:
        import email.utils

        with plainly(self.uri):
            headers = self._client.head_bucket(Bucket=self._bucket)["ResponseMetadata"]["HTTPHeaders"]
        return email.utils.parsedate_to_datetime(headers["date"])

    def close(self) -> None:
        self._client.close()


def _read_contents(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """Take the objects out of a page before boto3 reads it, which needs three times as long for them."""
    from xml.etree import ElementTree

    if response_dict["status_code"] >= 300:
        return
    try:
        page = ElementTree.fromstring(response_dict["body"])  # noqa: S314 - of our store, as boto3 does
    except ElementTree.ParseError:
        return  # boto3 says it in its own words, and tries again
    space = page.tag.removesuffix("ListBucketResult")
    contents = page.findall(f"{space}Contents")
    for item in contents:
        page.remove(item)
    if contents:
        response_dict["body"] = ElementTree.tostring(page)
        names = ("Key", "LastModified", "ETag", "Size")
        values = ({name: item.findtext(f"{space}{name}") or "" for name in names} for item in contents)
        customized_response_dict["Contents"] = [
            {**one, "Size": int(one["Size"] or 0), "LastModified": _moment(one["LastModified"])}
            for one in values
        ]


def _moment(text: Any) -> datetime.datetime:
    """A time in an answer of S3. boto3's way to read it takes three quarters of the time of a listing."""
    from botocore.utils import parse_timestamp

    try:
        return datetime.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        found: datetime.datetime = parse_timestamp(text)
        return found
