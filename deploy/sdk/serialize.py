"""Does for the tests what `flyte run` does before it asks the backend: `serialize.py MODULE TASK FOLDER`.

It writes the task's TaskTemplate and its code to FOLDER, the first as the file template.pb, and prints
the template as JSON. MODULE is looked for in the working folder.
"""

import pathlib
import sys

import flyte
from google.protobuf import json_format

module, task, folder = sys.argv[1:]
sys.path.insert(0, ".")
flyte.init(api_key="")
run = flyte.with_runcontext(mode="remote", dry_run=True, copy_bundle_to=pathlib.Path(folder)).run(
    getattr(__import__(module), task)
)
template = run.task_spec.task_template
(pathlib.Path(folder) / "template.pb").write_bytes(template.SerializeToString())
print(json_format.MessageToJson(template))
