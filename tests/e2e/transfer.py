"""What KFP's launcher does around a component, which cannot run without KFP: bring inputs from the store, take outputs there.

Run in a pod: python -c SCRIPT down|up BUCKET PREFIX…; an object s3://BUCKET/KEY is the file /s3/BUCKET/KEY, as KFP's executor expects.
"""

import sys
from pathlib import Path
from urllib.parse import urlsplit

from minio import Minio

from phasor.settings import store_settings


def transfer(direction: str, bucket: str, prefixes: list[str]) -> None:
    """Copy everything below the prefixes in one direction."""
    settings, root = store_settings(), Path("/s3") / bucket
    url = urlsplit(settings.endpoint)
    store = Minio(endpoint=url.netloc, access_key=settings.access_key, secret_key=settings.secret_key, secure=url.scheme == "https")
    for prefix in prefixes:
        if direction == "down":
            for item in store.list_objects(bucket_name=bucket, prefix=prefix, recursive=True):
                name = str(item.object_name)
                if name == prefix or name.startswith(f"{prefix}/"):
                    store.fget_object(bucket_name=bucket, object_name=name, file_path=str(root / name))
        else:
            for path in sorted((root / prefix).rglob("*")):
                if path.is_file():
                    store.fput_object(bucket_name=bucket, object_name=path.relative_to(root).as_posix(), file_path=str(path))


if __name__ == "__main__":
    transfer(sys.argv[1], sys.argv[2], sys.argv[3:])
