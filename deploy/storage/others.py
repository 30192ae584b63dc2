"""Another process of the pod: for each line [endpoint, id of the keys, secret, object, text], in JSON, it
writes the text to the object and prints how that has ended, for the tests of the guard.

Without an id the request is not signed.
"""

import json
import sys

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

for line in sys.stdin:
    endpoint, key_id, secret, key, text = json.loads(line)
    config = Config(retries={"max_attempts": 0}, signature_version=None if key_id else UNSIGNED)
    pair = {"aws_access_key_id": key_id, "aws_secret_access_key": secret} if key_id else {}
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name="eu-north-1", config=config, **pair)
    try:
        s3.put_object(Bucket="bkt", Key=key, Body=text.encode())
        print("stored", flush=True)
    except ClientError as e:
        print(e.response["Error"]["Code"], flush=True)
    except EndpointConnectionError:
        print("no connection", flush=True)
