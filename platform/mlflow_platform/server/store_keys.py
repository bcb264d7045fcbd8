"""Two pairs of S3 keys that overlap, in the bundled SeaweedFS or in a store outside.

    python -m mlflow_platform.server.store_keys prepare BUCKET[/PREFIX] [--add]
    python -m mlflow_platform.server.store_keys retire

`prepare` adds the pair NEXT_ACCESS_KEY_ID and NEXT_SECRET_ACCESS_KEY to the store's user (`--add`: the
bundled store, by its IAM API, which knows a new pair at once and without a restart) and tries it: list, put,
get, delete. `retire` removes PREVIOUS_ACCESS_KEY_ID. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
MLFLOW_S3_ENDPOINT_URL are the servers' own. Each step may be repeated. Exit codes: 0 done, 1 failed,
64 usage.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import time
from typing import Any

from mlflow_platform.errors import EXIT_USAGE, PlatformError, Rejected, Transient
from mlflow_platform.server.database import connected, lock, say

#: The bundled store's user, whose pairs these are (chart: store.yaml.j2).
USER = "mlflow"
#: IAM's version of its API (docs.aws.amazon.com/IAM/latest/APIReference).
_VERSION = "2010-05-08"
#: How long to wait for the store, and for migration, backup and retention to end, in seconds.
PATIENCE = 60.0
LOCK_PATIENCE = 600.0


def main(arguments: list[str]) -> int:
    """Exit code of `prepare` or `retire`."""
    try:
        match arguments:
            case ["prepare", place, *add] if add in ([], ["--add"]):
                if add:
                    add_pair(os.environ["NEXT_ACCESS_KEY_ID"], os.environ["NEXT_SECRET_ACCESS_KEY"])
                bucket, _, prefix = place.partition("/")
                try_pair(
                    os.environ["NEXT_ACCESS_KEY_ID"], os.environ["NEXT_SECRET_ACCESS_KEY"], bucket, prefix
                )
            case ["retire"]:
                with connected(time.monotonic() + LOCK_PATIENCE) as connection:
                    # What began with the old pair finishes with it: a backup, a dump, a retention run.
                    lock(connection, time.monotonic() + LOCK_PATIENCE)
                    remove_pair(os.environ["PREVIOUS_ACCESS_KEY_ID"])
            case _:
                print(__doc__, file=sys.stderr)
                return EXIT_USAGE
    except PlatformError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def add_pair(key: str, secret: str) -> None:
    """Give the user a second pair; one that is there stays."""
    code = _iam("CreateAccessKey", AccessKeyId=key, SecretAccessKey=secret)
    if code not in ("", "EntityAlreadyExists"):
        raise Rejected(
            f"the store takes no second pair of keys: {code}",
            remedy="if an older version made this deployment, deploy it once, then rotate",
        )


def remove_pair(key: str) -> None:
    """Take a pair from the user; one that is gone is no mistake."""
    if code := _iam("DeleteAccessKey", AccessKeyId=key):
        raise Rejected(f"the store does not remove the previous pair: {code}")
    say("the previous pair is removed")


def try_pair(key: str, secret: str, bucket: str, prefix: str) -> None:
    """List, put, get and delete with a pair. `Rejected` names what the store refuses."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client: Any = boto3.client(
        "s3",
        endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 2}),
    )
    folder = f"{prefix}/" if prefix else ""
    name, content = f"{folder}mlplatform-rotation-{secrets.token_hex(8)}", secrets.token_bytes(64)
    deadline = time.monotonic() + PATIENCE
    while True:
        step = "list"
        try:
            client.list_objects_v2(Bucket=bucket, Prefix=folder, MaxKeys=1)
            step = "put"
            client.put_object(Bucket=bucket, Key=name, Body=content)
            step = "get"
            found = client.get_object(Bucket=bucket, Key=name)["Body"].read()
            step = "delete"
            client.delete_object(Bucket=bucket, Key=name)
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:  # a new pair may take its time to be known
                raise Rejected(
                    f"the new pair cannot {step} in bucket {bucket}: {error}",
                    remedy="give it the rights of the present pair, then rotate again",
                ) from None
            time.sleep(1)
            continue
        if found != content:
            raise Rejected(f"bucket {bucket} did not return what was written")
        say("the new pair lists, writes, reads and deletes")
        return


def _iam(action: str, **parameters: str) -> str:
    """The store's error code, empty if there is none. Signed with the servers' present pair.

    By hand, because the official client cannot name the pair to be made, and a pair that the store chose
    would be lost where nobody reads the answer.
    """
    from urllib.parse import urlencode

    import urllib3
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    from urllib3.exceptions import HTTPError

    url = os.environ["MLFLOW_S3_ENDPOINT_URL"]
    body = urlencode({"Version": _VERSION, "Action": action, "UserName": USER, **parameters})
    deadline = time.monotonic() + PATIENCE
    while True:
        signed = AWSRequest(
            "POST", url, data=body, headers={"content-type": "application/x-www-form-urlencoded"}
        )
        pair = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        SigV4Auth(pair, "iam", os.environ["AWS_DEFAULT_REGION"]).add_auth(signed)
        try:
            answer = urllib3.request(
                "POST", url, body=body, headers=dict(signed.headers), retries=False, timeout=20
            )
        except HTTPError as error:
            reason = type(error).__name__
        else:
            if answer.status < 300:
                return ""
            reason = f"HTTP {answer.status}"
            if answer.status < 500:
                # Not the whole answer: it may hold a key.
                found = re.search(rb"<Code>(\w+)</Code>", answer.data)
                return found[1].decode() if found else reason
        if time.monotonic() > deadline:
            raise Transient(f"the store does not answer: {reason}")
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
