"""Stands in for `flyte run FILE TASK`: prints the pod that Flyte makes of a raw container, as JSON.

`pod.py FILE TASK` loads the file with Flyte's real SDK, and takes the image, the arguments and the
secrets from the TaskTemplate that it would send. The rest is that of a pod of Flyte v2.0.43.
"""

import json
import pathlib
import sys
import tempfile

import flyte
from declared import annotation
from serialize import serialize

file, name = sys.argv[1:]
sys.path.insert(0, ".")
flyte.init(api_key="")
with tempfile.TemporaryDirectory() as folder:
    task = getattr(__import__(pathlib.Path(file).stem), name)
    template = serialize(task, pathlib.Path(folder)).task_spec.task_template
pod = "r0-a0-0"
labels = {
    "organization": "flyte",
    "project": "flytesnacks",
    "domain": "development",
    "task-name": name,
}
secrets = enumerate(template.security_context.secrets)
container = {
    "name": pod,
    "image": template.container.image,
    "args": [*template.container.command, *template.container.args],
}
volumes = []
if template.interface.outputs.variables:  # its copilot, which uploads them, is left out
    volumes = [{"name": "flyte-outputs", "emptyDir": {}}]
    container["volumeMounts"] = [{"name": "flyte-outputs", "mountPath": template.container.data_config.output_path}]
print(
    json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod,
                "labels": {**labels, "inject-flyte-secrets": "true"},
                "annotations": {f"flyte.secrets/s{i}": annotation(secret) for i, secret in secrets},
            },
            "spec": {"restartPolicy": "Never", "containers": [container], "volumes": volumes},
        }
    )
)
