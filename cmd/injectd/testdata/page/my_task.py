"""The task of Flyte's page on secrets, with something to do with the secret."""

import hashlib
import os

import flyte

env = flyte.TaskEnvironment(
    name="my_task_env",
    secrets=[
        flyte.Secret(key="MY_SECRET_KEY", as_env_var="MY_SECRET_ENV_VAR"),
    ]
)

@env.task
def t1():
    my_secret_value = os.getenv("MY_SECRET_ENV_VAR")
    # Do something with the secret
    print("digest", hashlib.sha256(my_secret_value.encode()).hexdigest())
    print("carelessly", my_secret_value)
