"""Uploads or downloads a file with flyte.storage, and says how that has ended, for the tests.

`faults.py put FILE URL` and `faults.py get URL FILE` try again sooner than the SDK does by default,
because a store that is gone does not come back in the tests.
"""

import asyncio
import dataclasses
import datetime
import sys

import flyte
import flyte.storage


def kinds(e: BaseException) -> set[str]:
    """The types of an error, of which there may be one for each part of the file."""
    if isinstance(e, BaseExceptionGroup):
        return set().union(*map(kinds, e.exceptions))
    return {type(e).__name__}


soon = dataclasses.replace(flyte.storage.S3.auto(), retries=3, backoff=datetime.timedelta(seconds=0.5))
flyte.init(storage=soon)
calls = {"put": flyte.storage.put, "get": flyte.storage.get}
try:
    asyncio.run(calls[sys.argv[1]](*sys.argv[2:]))
except Exception as e:
    print("failed:", *sorted(kinds(e)))
    print(e, file=sys.stderr)
else:
    print("done")
