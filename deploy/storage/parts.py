"""Uploads in parts with numbers far apart, and in many parts, through the guard, for the tests.

V is the secret. `parts.py far` needs a store with the rules of S3, where all parts but the last have
5 MiB; `parts.py many` one that takes small parts. The second prints how much memory the guard has
taken, in KiB.
"""

import concurrent.futures
import hashlib
import os
import random
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

V = os.environ["V"].encode()
s3 = boto3.client(
    "s3",
    endpoint_url=os.environ["FLYTE_AWS_ENDPOINT"],
    aws_access_key_id=os.environ["FLYTE_AWS_ACCESS_KEY_ID"],
    aws_secret_access_key=os.environ["FLYTE_AWS_SECRET_ACCESS_KEY"],
    region_name="eu-north-1",
    config=Config(retries={"max_attempts": 1}, max_pool_connections=8),
)
if not s3.list_buckets()["Buckets"]:
    s3.create_bucket(Bucket="bkt", CreateBucketConfiguration={"LocationConstraint": "eu-north-1"})


def begin(key):
    return {"Bucket": "bkt", "Key": key, "UploadId": s3.create_multipart_upload(Bucket="bkt", Key=key)["UploadId"]}


def put(upload, number, body):
    tag = s3.upload_part(**upload, PartNumber=number, Body=body)["ETag"]
    return {"PartNumber": number, "ETag": tag}


def complete(upload, parts):
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": sorted(parts, key=lambda p: p["PartNumber"])})


def refused(code, why, call, *args):
    try:
        call(*args)
    except ClientError as e:
        error = e.response["Error"]
        assert error["Code"] == code and why in error["Message"], error
        assert V not in str(e).encode()
    else:
        raise AssertionError(f"not refused: {why}")


def far():
    """The parts of an upload meet in the order of their numbers, whatever lies between those."""
    first, last = random.Random(1).randbytes(5 << 20), random.Random(2).randbytes(1000)
    upload = begin("far")
    parts = [put(upload, 10_000, last), put(upload, 1, first)]
    refused("InvalidArgument", "10000", put, upload, 10_001, b"x")
    complete(upload, parts)
    assert s3.get_object(Bucket="bkt", Key="far")["Body"].read() == first + last
    half = len(V) // 2
    for numbers in (1, 10_000), (10_000, 1), (5_000, 9_999):
        for more in b"", first[:100_000]:  # without more the last part is shorter than what is kept of one
            upload = begin("bad")
            bodies = {min(numbers): first + V[:half], max(numbers): V[half:] + last + more}
            parts = [put(upload, n, bodies[n]) for n in numbers]
            refused("AccessDenied", "bad holds the value of V, and was uploaded in parts", complete, upload, parts)
            refused("AccessDenied", "holds the value of V", put, upload, 3, b"more")
    upload = begin("bad")
    refused("AccessDenied", "holds the value of V", put, upload, 10_000, b"x" + V)


MANY, SIZE = 1500, 70_000


def many():
    """Where parts meet is searched as they come, so that their number takes no memory."""
    before = memory("VmRSS")
    block = random.Random(3).randbytes(SIZE)
    bodies = {n: hashlib.sha256(b"%d" % n).digest() + block for n in range(1, MANY + 1)}
    with concurrent.futures.ThreadPoolExecutor(8) as threads:

        def send(key):
            upload = begin(key)
            return upload, list(threads.map(lambda n: put(upload, n, bodies[n]), bodies))

        complete(*send("many"))
        got = s3.get_object(Bucket="bkt", Key="many")["Body"].read()
        assert hashlib.sha256(got).digest() == hashlib.sha256(b"".join(bodies.values())).digest()
        bodies = {n: bodies[n] for n in range(700, 800)}
        bodies[777] += V[: len(V) // 2]
        bodies[778] = V[len(V) // 2 :] + bodies[778]
        refused("AccessDenied", "was uploaded in parts", lambda: complete(*send("bad")))
    print("memory:", memory("VmHWM") - before)


def memory(field):
    """What /proc says of the process of the guard, in KiB."""
    with open(f"/proc/{os.getppid()}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))


{"far": far, "many": many}[sys.argv[1]]()
assert not s3.list_multipart_uploads(Bucket="bkt").get("Uploads")
refused("404", "Not Found", lambda: s3.head_object(Bucket="bkt", Key="bad"))
print("all is as it should be")
