"""A real HTTP S3 server in a process of its own (moto), with users and policies where a test wants them enforced."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import httpx

from grail_core.storage.commitment import Credentials
from grail_core.storage.s3 import S3Store

BUCKET, REGION = "alice", "us-east-1"
LEAST_PART_BYTES = 16 << 10  # S3 asks for 5 MiB, which would make hundreds of uploads slow
ANYONE = Credentials("anyone", "secret")


class S3Server:
    """The server at `url`. Until `enforcing` is entered, any key may do anything."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._enforcing = False

    def reset(self) -> None:
        """Forget everything; make the one bucket."""
        httpx.post(self.url + "/moto-api/reset")
        self._admin("s3").create_bucket(Bucket=BUCKET)

    def store(self, credentials: Credentials = ANYONE, *, bucket: str = BUCKET) -> S3Store:
        return S3Store(self.url, bucket, credentials, region=REGION)

    def user(self, name: str, *actions: str, bucket: str = BUCKET) -> Credentials:
        """The key of a new user that may do these actions in a bucket."""
        resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
        statement = {"Effect": "Allow", "Action": list(actions), "Resource": resources}
        return self.user_with(name, json.dumps({"Version": "2012-10-17", "Statement": [statement]}))

    def user_with(self, name: str, policy: str) -> Credentials:
        """The key of a new user with this policy."""
        iam = self._admin("iam")
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return Credentials(key["AccessKeyId"], key["SecretAccessKey"])

    def make_bucket(self, name: str) -> None:
        self._admin("s3").create_bucket(Bucket=name)

    def revoke(self, credentials: Credentials) -> None:
        """The key is no more, as when its owner removes it at the store's provider."""
        httpx.post(self.url + "/moto-api/reset-auth", content=b"inf")
        iam = self._admin("iam")
        users = [user["UserName"] for user in iam.list_users()["Users"]]
        keys = {key["AccessKeyId"]: name for name in users for key in iam.list_access_keys(UserName=name)["AccessKeyMetadata"]}
        iam.delete_access_key(UserName=keys[credentials.key_id], AccessKeyId=credentials.key_id)
        if self._enforcing:
            httpx.post(self.url + "/moto-api/reset-auth", content=b"0")

    @contextmanager
    def enforcing(self) -> Iterator[None]:
        """Every request is held to its key's policy."""
        httpx.post(self.url + "/moto-api/reset-auth", content=b"0")
        self._enforcing = True
        try:
            yield
        finally:
            self._enforcing = False
            httpx.post(self.url + "/moto-api/reset-auth", content=b"inf")

    def _admin(self, service: str) -> Any:
        return boto3.client(
            service, endpoint_url=self.url, aws_access_key_id="a", aws_secret_access_key="b", region_name=REGION
        )


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server that runs as long as the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"S3_UPLOAD_PART_MIN_SIZE": str(LEAST_PART_BYTES)},
    )
    assert process.stderr is not None
    for line in process.stderr:  # it says where it listens, at a port that the system chose for it
        if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", line):
            break
    else:
        raise RuntimeError(f"the S3 server ended with code {process.wait()} before it listened")
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        yield S3Server(found[1])
    finally:
        process.terminate()
        process.wait()
