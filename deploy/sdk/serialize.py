"""Does for the tests what `flyte run` does before it asks the backend: `serialize.py MODULE TASK FOLDER`.

It writes the task's TaskTemplate and its code to FOLDER, the first as the file template.pb, and prints
the template as JSON. MODULE is looked for in the working folder.
"""

import pathlib
import sys

import flyte
from google.protobuf import json_format


def serialize(task, folder: pathlib.Path, inputs={}, **options):
    """Writes the task's TaskTemplate and its code to folder, and returns the run that Flyte would start."""
    context = flyte.with_runcontext(mode="remote", dry_run=True, copy_bundle_to=folder, **options)
    run = context.run(task, **inputs)
    (folder / "template.pb").write_bytes(run.task_spec.task_template.SerializeToString())
    return run


if __name__ == "__main__":
    module, name, folder = sys.argv[1:]
    sys.path.insert(0, ".")
    flyte.init(api_key="")
    run = serialize(getattr(__import__(module), name), pathlib.Path(folder))
    print(json_format.MessageToJson(run.task_spec.task_template))
