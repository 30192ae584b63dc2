"""Writes and reads through the guard with boto3 and the AWS command line, for the tests.

V is the secret. The first argument is the command line `aws`.
"""

import gzip
import hashlib
import io
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

V = os.environ["V"]
assert V.encode().hex() == os.environ["V_HEX"]
pair = {
    "aws_access_key_id": os.environ["FLYTE_AWS_ACCESS_KEY_ID"],
    "aws_secret_access_key": os.environ["FLYTE_AWS_SECRET_ACCESS_KEY"],
    "region_name": "eu-north-1",
}
endpoint = os.environ["FLYTE_AWS_ENDPOINT"]
s3 = boto3.client("s3", endpoint_url=endpoint, config=Config(retries={"max_attempts": 1}), **pair)
if not s3.list_buckets()["Buckets"]:
    s3.create_bucket(Bucket="bkt", CreateBucketConfiguration={"LocationConstraint": "eu-north-1"})


def put(key, body, **more):
    return s3.put_object(Bucket="bkt", Key=key, Body=body, **more)


def get(key, **more):
    return s3.get_object(Bucket="bkt", Key=key, **more)["Body"].read()


def refused(why, call, *args, **more):
    try:
        call(*args, **more)
    except ClientError as e:
        error = e.response["Error"]
        assert error["Code"] == "AccessDenied" and why in error["Message"], error
        assert V not in str(e)
    else:
        raise AssertionError(f"not refused: {why}")


def keys():
    return [o["Key"] for o in s3.list_objects_v2(Bucket="bkt").get("Contents", [])]


mask = "[REDACTED:V]"
put("a ä+b/t.txt", f"it is {V}.".encode())
assert get("a ä+b/t.txt") == f"it is {mask}.".encode()
for checksum in "CRC32", "SHA1", "SHA256":
    put("t.json", json.dumps({"a": [V]}).encode(), ChecksumAlgorithm=checksum, Metadata={"kept": "yes"})
    assert json.loads(get("t.json")) == {"a": [mask]}
    clean = random.Random(1).randbytes(100_000)
    put("clean", clean, ChecksumAlgorithm=checksum, ContentType="x/y")
    assert get("clean") == clean and s3.head_object(Bucket="bkt", Key="clean")["ContentType"] == "x/y"
assert s3.head_object(Bucket="bkt", Key="t.json")["Metadata"] == {"kept": "yes"}
assert get("clean", Range="bytes=5-9") == clean[5:10]
put("new", b"1")
try:
    put("new", b"2", IfNoneMatch="*")
    raise AssertionError("a conditional write must fail")
except ClientError as e:
    assert e.response["Error"]["Code"] == "PreconditionFailed", e
refused("in binary data", put, "pickle", pickle.dumps(V))
refused("in a gzip archive", put, "gz", gzip.compress(V.encode()))
refused("in its name", put, "key" + V.encode().hex(), b"")
refused("in its name, its metadata", put, "k", b"", Metadata={"a": V.encode().hex()})
refused("its tags", put, "k", b"", Tagging="a=" + V.encode().hex())
refused("tags", s3.put_object_tagging, Bucket="bkt", Key="new", Tagging={"TagSet": [{"Key": "a", "Value": V.encode().hex()}]})
s3.put_object_tagging(Bucket="bkt", Key="new", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
s3.copy_object(Bucket="bkt", Key="copy", CopySource={"Bucket": "bkt", "Key": "clean"})
assert get("copy") == clean
s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": "copy"}]})
assert sorted(keys()) == ["a ä+b/t.txt", "clean", "new", "t.json"], keys()

big = random.Random(2).randbytes(64 << 20)


def at(offset):
    b = bytearray(big)
    b[offset : offset + len(V.encode())] = V.encode()
    return bytes(b)


def upload(key, body):
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=10)
    s3.upload_fileobj(io.BytesIO(body), "bkt", key, Config=config)


def same(key):
    return hashlib.sha256(get(key)).digest() == hashlib.sha256(big).digest()


upload("parts", big)
assert same("parts")
put("large", big)
assert same("large")
refused("large to be masked", put, "bad", at(40 << 20))
for offset in 0, (5 << 20) - 3, 7 << 20, (60 << 20) - 1:
    try:
        upload("bad", at(offset))
        raise AssertionError(f"not refused at {offset}")
    except Exception as e:
        assert "holds the value of V" in str(e), e
assert not s3.list_multipart_uploads(Bucket="bkt").get("Uploads")

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "file")

    def aws(body):
        with open(path, "wb") as f:
            f.write(body)
        env = {**os.environ, **{name.upper(): value for name, value in pair.items() if name != "region_name"}}
        env.update(AWS_DEFAULT_REGION="eu-north-1", HOME=folder)
        run = [sys.argv[1], "--endpoint-url", endpoint, "s3", "cp"]
        up = subprocess.run([*run, path, "s3://bkt/cli"], env=env, capture_output=True, text=True)
        down = subprocess.run([*run, "s3://bkt/cli", path + ".back"], env=env, capture_output=True, text=True)
        return up, down

    up, down = aws(big)
    assert up.returncode == 0 == down.returncode, up.stderr + down.stderr
    assert hashlib.sha256(open(path + ".back", "rb").read()).digest() == hashlib.sha256(big).digest()
    s3.delete_object(Bucket="bkt", Key="cli")
    up, down = aws(at((8 << 20) - 2))
    assert up.returncode == 1 and "holds the value of V" in up.stderr, up.stderr
    assert down.returncode == 1, "there is no such object"
print("all is as it should be")
