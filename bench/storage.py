"""Does the storage calls of Flyte's SDK that stdin asks for, one on a line, and prints their seconds."""

import asyncio
import json
import sys
import time

from flyte import storage


async def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        source, target, recursive = json.loads(line)
        call = storage.get if "://" in source else storage.put
        begin = time.monotonic()
        await call(source, target, recursive=recursive)
        print(time.monotonic() - begin, flush=True)


asyncio.run(main())
