"""A module with a task of its own that job.py calls through a function."""

import os

import flyte

env = flyte.TaskEnvironment("helper", secrets=["HELPER"])


@env.task
async def task() -> int:
    return len(os.environ["HELPER"])


async def through_helper() -> int:
    return 0 * await task()
