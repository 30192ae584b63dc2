"""Tasks that upload large files with the secret V in them, for the tests of the guard.

`uploads.py check URL` writes and reads below the URL as other code of a task does, by the
library that the SDK uses. `uploads.py dump URL` prints the objects below it, in JSON and base64.
"""

import base64
import datetime
import json
import os
import pathlib
import random
import sys
import tempfile

import flyte
import flyte.storage
import obstore
import obstore.exceptions
import obstore.store
from flyte.io import File

env = flyte.TaskEnvironment("uploads")
V = os.environ.get("V", "").encode()
PART = 5 * 2**20  # the size of the SDK's parts


async def uploaded(at: int) -> File:
    """A file of four parts and a bit with the value at that place, or nowhere if that is negative."""
    content = random.Random(at).randbytes(4 * PART + 7)
    if at >= 0:
        content = content[:at] + V + content[at + len(V) :]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "large.bin")
        path.write_bytes(content)
        return await File.from_local(str(path))


@env.task
async def clean() -> File:
    return await uploaded(-1)


@env.task
async def in_part() -> File:
    return await uploaded(PART + 1000)


@env.task
async def across_parts() -> File:
    return await uploaded(2 * PART - len(V) // 2)


@env.task
async def in_name() -> str:
    await flyte.storage.put_stream(b"clean", to_path=flyte.ctx().raw_data_path.path + "/of-" + V.decode() + ".txt")
    return "done"


def store(url: str) -> obstore.store.ObjectStore:
    retry = {"max_retries": 1, "backoff": {"base": 2}, "retry_timeout": datetime.timedelta(seconds=10)}
    return obstore.store.from_url(url, client_options={"allow_http": True, "timeout": "60s"}, retry_config=retry)


def names(s: obstore.store.ObjectStore) -> list[str]:
    return sorted(meta["path"] for chunk in obstore.list(s) for meta in chunk)


def check(url: str) -> None:
    s, key = store(url), "a folder/b+ä%2F.txt"
    goog = url.startswith("gs:")
    obstore.put(s, key, b"of " + V, attributes={"Content-Type": "text/plain", "foo": "b  ar"})
    assert bytes(obstore.get(s, key).bytes()) == b"of [REDACTED:V]"
    # moto, which stands in for Google, does not know its headers for metadata and copies.
    assert goog or obstore.get(s, key).attributes["foo"] == "b  ar"
    assert bytes(obstore.get_range(s, key, start=1, end=3)) == b"f "
    assert obstore.head(s, key)["size"] == len(b"of [REDACTED:V]")
    obstore.copy(s, key, "copy")
    assert goog or bytes(obstore.get(s, "copy").bytes()) == b"of [REDACTED:V]"
    obstore.rename(s, "copy", "renamed")
    with obstore.open_writer(s, "empty"):
        pass
    many = [f"many/{i}" for i in range(40)]
    for name in many:
        obstore.put(s, name, b"x")
    assert names(s) == sorted([key, "renamed", "empty", *many]), names(s)
    obstore.delete(s, [*many, "renamed"])
    assert names(s) == sorted([key, "empty"]), names(s)
    try:
        obstore.put(s, "metadata", b"", attributes={"foo": base64.b64encode(V).decode()})
    except obstore.exceptions.PermissionDeniedError as e:
        assert "V in its name, its metadata or its tags" in str(e)
    else:
        raise AssertionError("the value is in the metadata")
    try:
        obstore.head(s, "nothing")
    except FileNotFoundError:
        pass
    print("all is as it should be")


def dump(url: str) -> None:
    s = store(url)
    json.dump({name: base64.b64encode(obstore.get(s, name).bytes()).decode() for name in names(s)}, sys.stdout)


if __name__ == "__main__":
    {"check": check, "dump": dump}[sys.argv[1]](sys.argv[2])
