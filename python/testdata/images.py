"""Environments whose images are built with secrets."""

import flyte

REGISTRY = "registry.invalid/inject"


def image(name: str) -> flyte.Image:
    return flyte.Image.from_debian_base(registry=REGISTRY, name=name, python_version=(3, 12))


packages = image("packages").with_pip_packages(
    "private", secret_mounts=[flyte.Secret("my-token"), flyte.Secret("id", group="aws")]
)
dependency = flyte.TaskEnvironment(
    "dependency", image=image("apt").with_apt_packages("git", secret_mounts=["APT_TOKEN"])
)
env = flyte.TaskEnvironment(
    "env", image=packages.with_commands(["true"], secret_mounts="PLAIN"), depends_on=[dependency]
)
plain = flyte.TaskEnvironment("plain", image="debian:12")
