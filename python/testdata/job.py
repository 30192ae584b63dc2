"""Tasks that declare secrets in many ways, and show what they find of them."""

import functools
import hashlib
import os
import signal
import sys
from pathlib import Path

import flyte
import helper

print("imported job", sys.argv[1:])

MOUNT = "/etc/flyte/secrets"


def show(*variables: str) -> None:
    """Print each value, which inject masks, and its hash, which it does not."""
    for name in variables:
        value = os.environ[name]
        print(f"{name} {hashlib.sha256(value.encode()).hexdigest()} {value!r} {value}")


def logged(function):  # noqa: ANN001, ANN201
    """Decorate a task's function, so that what it calls is named in another one."""

    @functools.wraps(function)
    async def wrapper(*args: object, **kwargs: object) -> object:
        return await function(*args, **kwargs)

    return wrapper


deepest = flyte.TaskEnvironment("deepest", secrets="DEEPEST")
dependency = flyte.TaskEnvironment("dependency", secrets=["DEPENDENCY"], depends_on=[deepest])
called = flyte.TaskEnvironment("called", secrets=flyte.Secret("called-key", group="prod"))
listed = flyte.TaskEnvironment("listed", secrets=["LISTED"])
in_class = flyte.TaskEnvironment("in-class", secrets=["IN_CLASS"])
bound = flyte.TaskEnvironment("bound", secrets=["BOUND"])
env = flyte.TaskEnvironment(
    "env",
    secrets=[
        "own-key",
        flyte.Secret("renamed", as_env_var="NEW_NAME"),
        flyte.Secret("in-file", mount=MOUNT),
    ],
    depends_on=[dependency],
)
same = flyte.TaskEnvironment("same", secrets=["own-key"])
not_there = flyte.TaskEnvironment("not-there", secrets=["NOT_THERE", "NOT_THERE_EITHER"])
clash = flyte.TaskEnvironment("clash", secrets=["a-b"])
clash_too = flyte.TaskEnvironment("clash-too", secrets=["a_b"])
slash = flyte.TaskEnvironment("slash", secrets=[flyte.Secret("a/own-key", as_env_var="OTHER")])
bare = flyte.TaskEnvironment("bare")


@called.task
async def call(x: int) -> int:
    show("PROD_CALLED_KEY")
    return x


@listed.task
async def step() -> int:
    show("LISTED")
    return 1


@in_class.task
async def method() -> int:
    show("IN_CLASS")
    return 2


@bound.task
async def bind(x: int) -> int:
    show("BOUND")
    return x


STEPS = {"first": [step]}
STEPS["again"] = STEPS
partial = functools.partial(bind, x=3)


class Pipeline:
    """Calls a task that main does not name."""

    async def run(self) -> int:
        return await method()


pipeline = Pipeline()


@same.task
async def also_own() -> int:
    show("OWN_KEY")
    return 4


@env.task
@logged
async def main(n: int = 1) -> str:
    if n < 0:
        print(helper.proxy, helper.lazily)
    print("in job", sys.argv[1:], sorted(name for name in os.environ if "FLYTEPLUGINS" in name))
    show("OWN_KEY", "NEW_NAME", "DEPENDENCY", "DEEPEST", "HELPER")
    in_file = Path(os.environ["FLYTE_SECRETS_DEFAULT_DIR"], "in-file").read_text()
    print("in-file", hashlib.sha256(in_file.encode()).hexdigest(), in_file)
    total = await call(n) + await partial() + await pipeline.run() + await also_own()
    for first in STEPS["first"]:
        total += await first()
    total += await helper.through_helper()
    return f"{total} {os.environ['OWN_KEY']}"


@env.task
async def fail() -> None:
    raise ValueError(os.environ["OWN_KEY"])


@env.task
async def leave(code: int) -> None:
    sys.stdout.flush()
    os._exit(code)


@env.task
async def kill() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@env.task
async def ask() -> str:
    answer = input("your name? ")
    where = "on a terminal" if sys.stdin.isatty() and sys.stdout.isatty() else "elsewhere"
    print("hello", answer, where, os.environ["OWN_KEY"])
    input("and then? ")
    return answer


@not_there.task
async def missing() -> None:
    print("the task ran")


@clash.task
async def clashing() -> None:
    await clashing_too()


@clash_too.task
async def clashing_too() -> None:
    print("the task ran")


@slash.task
async def slashed() -> None:
    print("the task ran")


@bare.task
async def plain(n: int = 1) -> int:
    print("INJECT_PARENT" in os.environ)
    return n
