"""Tasks of Flyte v1 with secrets, for the tests.

`import job; job.prepare(FOLDER)` writes for each task what Flyte hands to its container: FOLDER/TASK/template.pb,
FOLDER/TASK/podinfo with the labels and annotations that propeller gives the pod, and
FOLDER/TASK/args.json, the container's args with the paths of FOLDER/TASK in them.
"""

import base64
import dataclasses
import hashlib
import json
import os
import pathlib
import typing
from collections import OrderedDict

import flytekit
import flytekit.configuration.plugin
from flytekit import Secret, current_context, map_task, task, workflow

ENV_VAR, FILE, ANY = Secret.MountType.ENV_VAR, Secret.MountType.FILE, Secret.MountType.ANY


class NoGroups(flytekit.configuration.plugin.FlytekitPlugin):
    """Plugins such as Union's allow a secret without a group."""

    @staticmethod
    def secret_requires_group() -> bool:
        return False


flytekit.configuration.plugin._GLOBAL_CONFIG["plugin"] = NoGroups()

SECRETS = [
    Secret(group=group, key=f"{at}-{mount.name.lower().replace('_', '-')}{named}", mount_requirement=mount, env_var=var)
    for mount in (ENV_VAR, FILE, ANY)
    for group, at, named, var in (
        ("prod", "db", "", None),
        ("prod", "db", "-named", f"NAMED_{mount.name}"),
        (None, "plain", "", None),
    )
]
ONE = Secret(group="prod", key="db-env-var", mount_requirement=ENV_VAR)


def digest(text: typing.Optional[str]) -> typing.Optional[str]:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def read(path: typing.Optional[str]) -> typing.Optional[str]:
    if path is None or not os.path.exists(path):
        return None
    with open(path, newline="") as f:
        return f.read()


def answer(s: Secret) -> str:
    """Prints what flytekit answers for a secret, as digests, which inject does not mask."""
    secrets = current_context().secrets
    variable = os.environ.get(s.env_var) if s.env_var else None
    value = secrets.get(s.group, s.key)
    print(
        "answer",
        json.dumps(
            {
                "key": s.key,
                "get": digest(value),
                "attribute": digest(getattr(getattr(secrets, s.group), s.key)) if s.group else None,
                "file": digest(read(secrets.get_secrets_file(s.group, s.key))),
                "variable": digest(variable),
                "at_variable": digest(read(variable)),
            }
        ),
    )
    return value


@task(secret_requests=SECRETS, enable_deck=True)
def answers() -> list[str]:
    values = [answer(s) for s in SECRETS]
    flytekit.Deck("secrets", "<br>".join(values))
    print("prefix", os.environ.get("FLYTE_SECRETS_ENV_PREFIX"))
    print("values", values)
    return values


@task(secret_requests=[ONE])
def mapped(a: int) -> str:
    return f"{a} {answer(ONE)}"


@task(secret_requests=[ONE])
def fails() -> str:
    value = answer(ONE)
    if value:
        raise ValueError("it is " + value)
    return value


@task(secret_requests=[dataclasses.replace(ONE, group_version="v7"), Secret(group="prod", key="db-any", group_version="v8")])
def versions() -> str:
    return answer(ONE)


@workflow
def maps(a: list[int]) -> list[str]:
    return map_task(mapped)(a=a)


def propeller(folder: pathlib.Path, template) -> None:
    """Writes the labels and annotations of a pod, as kubelet's downward API shows them."""
    from google.protobuf import text_format

    base32 = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "abcdefghijklmnopqrstuvwxyz123456")
    annotations = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    for i, s in enumerate(template.security_context.secrets if template.security_context else []):
        text = text_format.MessageToString(s.to_flyte_idl()).encode()
        annotations[f"flyte.secrets/s{i}"] = base64.b32encode(text).decode().rstrip("=").translate(base32)
    labels = {
        "domain": "development",
        "execution-id": "f7a3",
        "inject-flyte-secrets": "true",
        "interruptible": "false",
        "node-id": "n0",
        "project": "flytesnacks",
        "shard-key": "21",
        "task-name": "job-answers",
        "workflow-name": "flytegen-job-answers",
    }
    folder.mkdir()
    for name, pairs in (("labels", labels), ("annotations", annotations)):
        (folder / name).write_text("".join(f"{k}={json.dumps(v)}\n" for k, v in sorted(pairs.items())))


def prepare(folder: str | pathlib.Path) -> None:
    from flyteidl.core import literals_pb2
    from flytekit.configuration import FastSerializationSettings, ImageConfig, SerializationSettings
    from flytekit.tools.fast_registration import fast_package
    from flytekit.tools.translator import get_serializable

    folder = pathlib.Path(folder)
    bundle = fast_package(pathlib.Path(__file__).parent, folder)
    settings = SerializationSettings(
        image_config=ImageConfig.auto(img_name="registry.example.org/task:v1"),
        project="flytesnacks",
        domain="development",
        version="v1",
    )
    fast = settings.new_builder().with_fast_serialization_settings(
        FastSerializationSettings(enabled=True, destination_dir=str(folder / "code"), distribution_location=bundle)
    )
    (folder / "code").mkdir()
    templates = {t: get_serializable(OrderedDict(), settings, globals()[t]).template for t in ("answers", "fails", "versions")}
    templates["fast"] = get_serializable(OrderedDict(), fast.build(), answers).template
    found: OrderedDict = OrderedDict()
    get_serializable(found, settings, maps)
    (templates["map"],) = [t for t in (getattr(e, "template", None) for e in found.values()) if hasattr(t, "container")]

    for name, template in templates.items():
        at = folder / name
        (at / "out").mkdir(parents=True)
        (at / "template.pb").write_bytes(template.to_flyte_idl().SerializeToString())
        propeller(at / "podinfo", template)
        inputs = literals_pb2.LiteralMap()
        if name == "map":
            for n in (4, 5):
                inputs.literals["a"].collection.literals.add().scalar.primitive.integer = n
        (at / "inputs.pb").write_bytes(inputs.SerializeToString())
        places = {
            "{{.input}}": at / "inputs.pb",
            "{{.outputPrefix}}": at / "out",
            "{{.rawOutputDataPrefix}}": at / "raw",
            "{{.checkpointOutputPrefix}}": at / "checkpoint",
            "{{.prevCheckpointPrefix}}": "",
        }
        args = [str(places.get(a, a)) for a in template.container.args]
        (at / "args.json").write_text(json.dumps(args))

