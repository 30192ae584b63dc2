"""The task of Flyte's documentation on secrets, whose secret inject hands over: `flyte run task.py t1`."""

import os

import flyte

env = flyte.TaskEnvironment(
    name="my_task_env",
    secrets=[flyte.Secret(key="MY_SECRET_KEY", as_env_var="MY_SECRET_ENV_VAR")],
    image="registry.example/my-flyte-task:v1",  # that of the Dockerfile beside this file
    pod_template="inject",  # that of pod-template.yaml
    resources=flyte.Resources(cpu=1, memory="500Mi"),  # with a tenth of a processor, Flyte's SDK takes minutes to start
)


@env.task
def t1() -> int:
    my_secret = os.environ["MY_SECRET_ENV_VAR"]
    print(f"Carelessly: {my_secret}")  # the log has [REDACTED:MY_SECRET_KEY]
    return len(my_secret)
