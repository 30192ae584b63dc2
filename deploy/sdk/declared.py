"""Tasks that declare secrets in each way that the SDK has, for the tests.

`declared.py FOLDER` does what `flyte run` does before it asks the backend, for each of the tasks. It
writes to FOLDER/TASK the TaskTemplate (template.pb), the annotations that Flyte's executor makes of
its secrets (annotations, as kubelet writes them), inputs.pb, the code, and the arguments of a0
(args.json), whose paths are below FOLDER/TASK. In FOLDER/pickled the code is a pickle.
"""

import base64
import hashlib
import json
import os
import pathlib
import sys

import flyte

MOUNT = pathlib.Path("/etc/flyte/secrets")
text = flyte.TaskEnvironment("text", secrets="api-key")
one = flyte.TaskEnvironment("one", secrets=flyte.Secret("db-password", group="prod"))
many = flyte.TaskEnvironment(
    "many",
    secrets=[
        "api-key",
        flyte.Secret("db-password", group="prod"),
        flyte.Secret("token", as_env_var="A_TOKEN"),
        flyte.Secret("cert", mount=MOUNT),
        flyte.Secret("key", group="my-team", mount=MOUNT),
        flyte.Secret("both", mount=MOUNT, as_env_var="BOTH_OF_THEM"),
        flyte.Secret("token", group="twice"),
    ],
)
empty = flyte.TaskEnvironment("empty", secrets=[])
none = flyte.TaskEnvironment("none")


def look(greeting: str) -> str:
    """Prints the SHA-256 of each variable, and of each file in the folder of secrets, by name."""
    values = {name: os.fsencode(value) for name, value in os.environ.items()}
    folder = pathlib.Path(os.environ.get("FLYTE_SECRETS_DEFAULT_DIR", "/none"))
    for name in (*folder.glob("[!.]*"), *folder.glob("[!.]*/*")):
        if name.is_file():
            values[str(name.relative_to(folder))] = name.read_bytes()
    print(json.dumps({name: hashlib.sha256(value).hexdigest() for name, value in values.items()}))
    return greeting + " " + os.environ.get("A_TOKEN", "")


@text.task
async def look_text(greeting: str) -> str:
    return look(greeting)


@one.task
async def look_one(greeting: str) -> str:
    return look(greeting)


@many.task
async def look_many(greeting: str) -> str:
    return look(greeting)


@empty.task
async def look_empty(greeting: str) -> str:
    return look(greeting)


@none.task
async def look_none(greeting: str) -> str:
    return look(greeting)


def annotation(secret) -> str:
    """Encodes a declaration as Flyte's executor does (flyteplugins, utils/secrets/marshaler.go)."""
    from google.protobuf import text_format

    standard, own = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"abcdefghijklmnopqrstuvwxyz123456"
    encoded = base64.b32encode(text_format.MessageToString(secret).encode()).rstrip(b"=")
    return encoded.translate(bytes.maketrans(standard, own)).decode()


def prepare(task, folder: pathlib.Path, **options) -> None:
    from flyte._internal.runtime.taskrunner import replace_task_cli
    from flyte.models import ActionID
    from serialize import serialize

    folder.mkdir()
    run = serialize(task, folder, {"greeting": "hello"}, **options)
    template = run.task_spec.task_template
    secrets = enumerate(template.security_context.secrets)
    lines = [f'flyte.secrets/s{i}="{annotation(secret)}"\n' for i, secret in secrets]
    (folder / "annotations").write_text("".join(lines))
    args = replace_task_cli(template.container.args, run.inputs, folder, ActionID(name="a1", run_name="r1"))
    (folder / "args.json").write_text(json.dumps(args))


if __name__ == "__main__":
    import declared  # under the name by which a0 finds the tasks

    flyte.init(api_key="", root_dir=pathlib.Path(__file__).parent)
    folder = pathlib.Path(sys.argv[1])
    for name in "text", "one", "many", "empty", "none":
        prepare(getattr(declared, "look_" + name), folder / name)
    prepare(look_many, folder / "pickled", interactive_mode=True)  # of __main__: by value
