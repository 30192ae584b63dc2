"""Tasks whose outputs hold the secret V, and a reader of such outputs, for the tests.

A task is run by a0, the SDK's own runtime. `job.py TASK FILE` reads what the task left in
FILE back into the types of the task, and prints them, each before the
bytes of its literal.
"""

import asyncio
import dataclasses
import datetime
import enum
import os
import pprint
import sys
import typing

import flyte
import pydantic

env = flyte.TaskEnvironment("job")
V = os.environ.get("V", "")


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


@env.task
async def everything() -> tuple[
    Data, Model, list[Data], dict[str, Model], dict, Data | str, typing.Optional[Model], str, int, list[dict[str, Data]]
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
    )


@env.task
async def clean() -> Data:
    return data("nothing")


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


@env.task
async def pickled() -> set:
    return {V}


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
    asyncio.run(read(sys.argv[1], sys.argv[2]))
