"""The S3 server of a localnet: moto with enforced keys, whose clock is the chain's, and whose buckets outlive its process.

Store times decide what counts, and localnet's blocks follow the work: so `LastModified` is the development chain's time, in
whole seconds as S3 has it. What is stored is written to a folder of buckets too before the answer goes out, with its time, and
read from there at the start; so a run resumes, and what it left can be looked at. After a restart ETags are those of
one PUT: no object of a localnet is large enough for parts.

    python -m tooling.localnet.s3_on_chain_time --stores s3.json --chain chain.sqlite --folder store
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grail_core.chain.development.local import LocalChain
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.object_keys import is_key
from tooling.localnet.remote_stores import REGION, RemoteStores

ACCOUNT = "123456789012"  # moto's own


def serve(stores: RemoteStores, now_ms: Callable[[], int], folder: Path) -> None:
    """Until the process ends."""
    import moto.s3.models as models
    from moto import settings
    from moto.iam.models import iam_backends
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    models.utcnow = lambda: datetime.fromtimestamp(now_ms() / 1000, UTC).replace(tzinfo=None)
    backend, users = models.s3_backends[ACCOUNT]["aws"], iam_backends[ACCOUNT]["aws"]
    for name, keys in stores.keys.items():
        backend.create_bucket(name, REGION)
        _user(users, f"{name}-writes", name, ["s3:*"], keys["write"])
        _user(users, f"{name}-reads", name, ["s3:GetObject", "s3:ListBucket"], keys["read"])
        _restore(backend, folder, name)
    _write_through(models.S3Backend, folder)
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0.0  # from here on every request is held to its key's policy
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not a line for each request
    application = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", stores.port, application, threaded=True, request_handler=MotoRequestHandler)


def _user(users: Any, user: str, bucket: str, actions: list[str], pair: tuple[str, str]) -> None:
    """A user with this one key, who may do these actions in one bucket."""
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": resources}]}
    made = users.create_user("us-east-1", user)
    users.put_user_policy(user, "p", json.dumps(policy))
    key = (made[0] if isinstance(made, tuple) else made).create_access_key(prefix="AKIA")
    key.access_key_id, key.secret_access_key = pair
    users.access_keys[key.access_key_id] = key


def _restore(backend: Any, folder: Path, bucket: str) -> None:
    """What lies in the folder's bucket, with the times that it has there."""
    store = FilesystemStore(folder, bucket)
    for info in store.list(""):
        key = backend.put_object(bucket, info.key, store.get(info.key, max_bytes=info.size))
        key.last_modified = datetime.fromtimestamp(info.stored_at_ms / 1000, UTC).replace(tzinfo=None)


def _write_through(backend: Any, folder: Path) -> None:
    """Every put and delete from now on also happens in the folder, before it is answered."""
    put_object, delete_object = backend.put_object, backend.delete_object

    def put(self: Any, bucket_name: str, key_name: str, value: bytes, *rest: Any, **more: Any) -> Any:
        key = put_object(self, bucket_name, key_name, value, *rest, **more)
        if is_key(key_name):
            stored_at_ms = round(key.last_modified.replace(tzinfo=UTC).timestamp() * 1000)
            FilesystemStore(folder, bucket_name, clock=lambda: stored_at_ms).put(key_name, key.value)
        return key

    def delete(self: Any, bucket_name: str, key_name: str, *rest: Any, **more: Any) -> Any:
        if is_key(key_name):
            FilesystemStore(folder, bucket_name).delete(key_name)
        return delete_object(self, bucket_name, key_name, *rest, **more)

    backend.put_object, backend.delete_object = put, delete


def main() -> None:
    parser = argparse.ArgumentParser(description="The S3 server of a localnet.")
    parser.add_argument("--stores", type=Path, required=True, help="file of buckets and keys")
    parser.add_argument("--chain", required=True, help="the development chain, whose time it tells")
    parser.add_argument("--folder", type=Path, required=True, help="folder that holds the buckets between starts")
    options = parser.parse_args()
    serve(RemoteStores.read(options.stores), LocalChain.open(options.chain).now_ms, options.folder)


if __name__ == "__main__":
    main()
