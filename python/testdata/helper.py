"""A module with a task of its own that job.py calls through a function."""

import importlib.util
import os

import flyte

env = flyte.TaskEnvironment("helper", secrets=["HELPER"])


@env.task
async def task() -> int:
    return len(os.environ["HELPER"])


async def through_helper() -> int:
    return 0 * await task()


class Proxy:
    """Stands for an object that is not there yet, as Flask's request does."""

    @property
    def __class__(self) -> type:
        raise RuntimeError("there is no object")


def lazy(name: str):  # noqa: ANN201
    """Return a module that is imported when an attribute of it is used."""
    spec = importlib.util.find_spec(name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


proxy = Proxy()
lazily = lazy("broken")
