"""Tasks that await fifty others or fifty traces, some of which return the secret V, for the tests of the guard.

`executor.py` starts the other tasks.
"""

import asyncio
import os

import flyte
import flyte.storage

env = flyte.TaskEnvironment("mapped", image="none")
V = os.environ.get("V", "")
N = 50


@env.task
async def sub(i: int) -> str:
    """Returns a text, with the value in each fifth; each tenth uploads the value in binary data."""
    if i % 10 == 3:
        await flyte.storage.put_stream(b"\0" + V.encode(), to_path=flyte.ctx().raw_data_path.path + "/binary")
    return f"{i} of {V}" if i % 5 == 1 else f"{i} of none"


@env.task
async def mapped() -> list[str]:
    return [str(result) async for result in flyte.map.aio(sub, range(N), return_exceptions=True)]


@flyte.trace
async def traced(i: int) -> str:
    return f"{i} of {V}" if i % 3 == 0 else f"{i} of none"


@env.task
async def traces() -> list[str]:
    return await asyncio.gather(*(traced(i) for i in range(N)))
