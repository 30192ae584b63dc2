"""Tasks whose outputs are files in raw data, with the secret V in them, for the tests.

They are not in job.py because flyte.io and pandas take long to import.
"""

import os
import pathlib
import tempfile

import flyte
import pandas
from flyte.io import DataFrame, Dir, File

env = flyte.TaskEnvironment("raw")
V = os.environ.get("V", "")


async def written(content: bytes) -> File:
    file = File.new_remote()
    async with file.open("wb") as f:
        await f.write(content)
    return file


@env.task
async def text_file() -> File:
    return await written(f"a line\nand {V}\n".encode())


@env.task
async def binary_file() -> File:
    return await written(b"\0" + V.encode())


@env.task
async def folder() -> Dir:
    with tempfile.TemporaryDirectory() as name:
        local = pathlib.Path(name)
        (local / "deeper").mkdir()
        (local / "a.txt").write_text("it is " + V)
        (local / "deeper" / "b.txt").write_text(V)
        (local / "c").write_bytes(b"\0nothing")
        raw = flyte.ctx().raw_data_path.get_random_remote_path()
        return await Dir.from_local(name, remote_destination=raw)


def frame_of(text: str) -> pandas.DataFrame:
    return pandas.DataFrame({"text": ["a", text, "b"], "n": [1, 2, 3]})


@env.task
async def clean_frame() -> pandas.DataFrame:
    return frame_of("nothing")


@env.task
async def frame() -> pandas.DataFrame:
    return frame_of(V)


@env.task
async def flyte_frame() -> DataFrame:
    return DataFrame.from_df(frame_of(V))
