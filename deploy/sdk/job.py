"""Tasks that use the secret V, and a reader of their outputs, for the tests.

A task is run by a0, the SDK's own runtime. The variable HOW chooses between the ways of a task.
`job.py TASK FILE…` reads what tasks left in FILEs back into the types of the tasks, and prints
them, each before the bytes of its literal.
"""

import asyncio
import dataclasses
import datetime
import enum
import hashlib
import html
import os
import pprint
import signal
import sys
import typing

import flyte
import flyte.errors
import flyte.report
import pydantic

env = flyte.TaskEnvironment("job")
V = os.environ.get("V", "")
HOW = os.environ.get("HOW", "")
if HOW == "import":
    raise ModuleNotFoundError("no module for " + V)


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Inner:
    text: str
    numbers: list[float]


@dataclasses.dataclass
class Data:
    text: str
    plain: str = "plain ä€\U0001f600"
    integer: int = -(2**40)
    real: float = 0.1
    flag: bool = True
    nothing: typing.Optional[str] = None
    color: Color = Color.RED
    inner: typing.Optional[Inner] = None
    mapped: dict[str, str] = dataclasses.field(default_factory=dict)
    many: list[Inner] = dataclasses.field(default_factory=list)
    raw: bytes = b"\x00\xff"


class Model(pydantic.BaseModel):
    text: str
    when: datetime.datetime = datetime.datetime(2020, 1, 2, 3, 4, 5)
    mapped: dict[str, list[str]] = {}
    inner: typing.Optional["Model"] = None


def data(v: str) -> Data:
    inner = Inner("in " + v, [0.5, 1e300])
    return Data("it is " + v, inner=inner, mapped={"k": v, "of " + v: "x", "y": (v + ".") * 20}, many=[inner] * 40)


def model(v: str) -> Model:
    return Model(text=v, mapped={v: [v, "x"], "x": []}, inner=Model(text="in " + v))


class Typed(typing.TypedDict):
    text: str
    texts: list[str]


@env.task
async def everything() -> tuple[
    Data,
    Model,
    list[Data],
    dict[str, Model],
    dict,
    Data | str,
    typing.Optional[Model],
    str,
    int,
    list[dict[str, Data]],
    typing.Optional[str],
    typing.Optional[str],
    str | int,
    list[str],
    dict[str, str],
    dict[str, list[str]],
    typing.Optional[list[str]],
    list[list[dict[str, str]]],
    dict[int, str],
    Typed,
    typing.Annotated[str, "a note"],
    str,
    datetime.datetime,
    Color,
    float,
]:
    plain = {"a": V, V: {"n": 1, "deeper": [None, True, {V: V}]}, "n": [2.5, 300, -1, 2**63], "x" * 40: (V + ".") * 2000}
    return (
        data(V),
        model(V),
        [data(V), data("nothing")],
        {"a": model(V), V: model("nothing")},
        plain,
        data(V),
        model(V),
        V,
        7,
        [{"a": data(V), V: data(V)}],
        V,
        None,
        "either " + V,
        [V, "", "in " + V],
        {"a": V, V: "x"},
        {V: [V, "x"]},
        [V],
        [[{V: V}], []],
        {1: V, 2: "x"},
        Typed(text=V, texts=[V]),
        V,
        ("ä " + V + "\n") * 2000,
        datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
        Color.RED,
        0.5,
    )


@env.task
async def clean() -> Data:
    return data("nothing")


class Settings(pydantic.BaseModel):
    text: str = V


@env.task
async def default_in_schema() -> tuple[typing.Optional[Settings], typing.Optional[list[Settings]]]:
    return Settings(text="nothing"), [Settings(text="nothing")]


@env.task
async def equal_keys() -> dict:
    return {V: 1, V.encode().hex(): 2, "x": {"y": 3}}


@env.task
async def bytes_in_dataclass() -> Data:
    return Data("x", raw=V.encode())


@env.task
async def number_in_dataclass() -> Data:
    return Data("x", integer=int(V))


@env.task
async def number() -> int:
    return int(V)


class Own:
    def __init__(self, text: str):
        self.text = text


# Types for which the SDK has no form of its own are pickled.


@env.task
async def pickled_set() -> set:
    return {V}


@env.task
async def pickled_any() -> typing.Any:
    return V


@env.task
async def pickled_any_in_list() -> list[typing.Any]:
    return ["x", V]


@env.task
async def pickled_class() -> Own:
    return Own(V)


@env.task
async def pickled_bytes() -> bytes:
    return V.encode()


@env.task
async def pickled_error() -> Exception:
    return ValueError(V)


@env.task
async def pickled_large() -> bytes:
    return b"x" * 20_000 + V.encode()


@env.task(report=True)
async def ends() -> str:
    inner = ValueError("inner " + V)
    match HOW:
        case "raised":
            raise inner
        case "caused":
            raise RuntimeError("outer " + V) from inner
        case "group":
            raise ExceptionGroup("group " + V, [inner, ExceptionGroup("deeper", [KeyError(V)])])
        case "for good":
            raise flyte.errors.NonRecoverableError(V)
        case "user error":
            raise flyte.errors.RuntimeUserError("Code" + V, "it was " + V)
        case "wrong type":
            return [V]
        case "sys.exit":
            sys.exit(V)
        case "sys.exit(3)":
            print("leaving with", V)
            sys.exit(3)
        case "os._exit":
            print("leaving with", V, flush=True)
            os._exit(7)
        case "killed":
            await flyte.report.log.aio(html.escape(V), do_flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        case "reported":
            await flyte.report.log.aio(f"<p>{html.escape(V)}</p>")
            flyte.report.get_tab("more").log(f"<pre>{V}</pre>")
        case "reported and raised":
            await flyte.report.log.aio(f"<p>{html.escape(V)}</p>", do_flush=True)
            raise inner
    return "it is " + V


@env.task
def ends_in_thread() -> str:
    if HOW == "raised":
        raise ValueError("it was " + V)
    return "it is " + V


@env.task(retries=1)
async def retried() -> str:
    checkpoint = flyte.ctx().checkpoint
    before = await checkpoint.load()
    print(hashlib.sha256(V.encode()).hexdigest())
    await checkpoint.save(("saved with " + V).encode())
    if os.environ["FLYTE_ATTEMPT_NUMBER"] == "0":
        raise ValueError("again with " + V)
    return f"{V} after {before.read_text()}"


@env.task(report=True)
async def stopped() -> str:
    asked = asyncio.Event()
    if HOW == "handled":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    await flyte.report.log.aio(html.escape(V), do_flush=True)
    print("ready", flush=True)
    await asked.wait()
    return "stopped with " + V


@env.task
async def child(text: str) -> str:
    await asyncio.sleep(0.01)
    return text + " " + V


@flyte.trace
async def traced(text: str) -> str:
    return text + " " + V


@env.task
async def parent() -> list[str]:
    """Awaits several at the same time: tasks of their own, or their functions in this process."""
    match HOW:
        case "forward":
            return await asyncio.gather(*(child.forward(f"{i}") for i in range(20)))
        case "trace":
            return [await traced("x")]
        case "trace with":
            return [await traced(V)]
        case "raised":
            await asyncio.gather(*(child(f"{i} " + V) for i in range(3)))
            raise ValueError("children of " + V)
    return [*await asyncio.gather(*(child(f"{i}") for i in range(3))), await traced("x")]


async def read(name: str, path: str) -> None:
    from flyte.types import TypeEngine
    from flyteidl2.task import common_pb2

    with open(path, "rb") as f:
        outputs = common_pb2.Outputs.FromString(f.read())
    types = globals()[name].native_interface.outputs
    for literal, kind in zip(outputs.literals, types.values(), strict=True):
        pprint.pprint(await TypeEngine.to_python_value(literal.value, kind), width=10**6)  # it sorts keys
        print(literal.SerializeToString(deterministic=True))


if __name__ == "__main__":
    for file in sys.argv[2:]:
        asyncio.run(read(sys.argv[1], file))
        print("--")
