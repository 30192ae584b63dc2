"""A module that cannot be imported."""

import flyte

env = flyte.TaskEnvironment("env", secrets=["own-key"])

import no_such_module
