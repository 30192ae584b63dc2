"""Manages secrets with Flyte's SDK: manage.py CONFIG NAME VALUE_FILE. It prints what it sees."""

import json
import os
import sys

import flyte
from flyte.remote import Secret

config, name, file = sys.argv[1:]
with open(file, "rb") as f:
    value = f.read()
flyte.init_from_config(config)


def names():
    return sorted(s.name for s in Secret.listall(limit=3))


seen = {"before": names()}
Secret.create(name, value)
seen["created"] = names()
seen["got"] = Secret.get(name).name
seen["type"] = Secret.get(name).type
try:
    Secret.create(name, value)
except Exception as e:
    seen["duplicate"] = str(e)
Secret.delete(name)
seen["deleted"] = names()
try:
    Secret.get(name)
except Exception as e:
    seen["absent"] = str(e)
Secret.create(name, value)
print(json.dumps(seen), flush=True)
# At 2.12.1 the SDK sometimes aborts while Python ends, when all this is done.
os._exit(0)
