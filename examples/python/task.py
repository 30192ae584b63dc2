"""The task of Flyte's documentation on secrets. It runs without Flyte's SDK, too."""

import os

try:
    import flyte

    task = flyte.TaskEnvironment(
        name="my_task_env",
        secrets=[flyte.Secret(key="MY_SECRET_KEY", as_env_var="MY_SECRET_ENV_VAR")],
    ).task
except ImportError:  # without the SDK, task.yaml declares the secret

    def task(function):
        return function


@task
def t1():
    my_secret = os.getenv("MY_SECRET_ENV_VAR")
    print(f"The secret has {len(my_secret)} characters.")
    print(f"Carelessly: {my_secret}")


if __name__ == "__main__":
    t1()
