"""Start ``flyte run --local`` and ``flyte build`` again under ``inject``.

Flyte hands its commands to the hooks ``run`` and ``build``. They find the secrets that the code
declares, and replace the process by ``inject run … -- flyte …``, which looks the secrets up, places
them, and masks their values in what is printed. Before that, no value is in this process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click
import flyte
from flyte._initialize import get_init_config
from flyte._secret import Secret, secrets_from_request
from flyte.cli._run import RunTaskCommand
from flyte.errors import InitializationError

from ._reached import environments, reached

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["build", "run"]

# Tells the process that inject starts not to start inject again. inject itself says so with
# INJECT_PARENT only where it masks, and passes no other variable INJECT_* on.
STARTED = "FLYTEPLUGINS_INJECT_STARTED"


class _StartAgain(BaseException):
    """Leaves Flyte's code, which ends its progress display, before the process is replaced.

    Flyte catches every Exception on the way.
    """


def run(command: click.Command) -> click.Command:
    """Make ``flyte run --local`` place the secrets of all environments that its task reaches."""
    invoke = RunTaskCommand.invoke

    @functools.wraps(invoke)
    def with_secrets(self: RunTaskCommand, ctx: click.Context) -> None:
        if self.run_args.local or self.run_args.tracked:
            declared = reached(self.obj)
            variables = {s.as_env_var for s in declared if s.as_env_var}
            if program := _find_inject(ctx, declared, variables):
                if self.run_args.tracked:
                    _say(
                        "--tracked sends inputs, outputs and errors of the tasks to Flyte unmasked:"
                        " inject masks only what the command prints"
                    )
                _start_again(program, [_flag(s, s.as_env_var) for s in declared])
        invoke(self, ctx)

    RunTaskCommand.invoke = with_secrets  # type: ignore[method-assign]
    return command


def build(command: click.Command) -> click.Command:
    """Make ``flyte build`` place the secrets that local builds of images mount."""
    invoke = command.invoke

    @functools.wraps(invoke)
    def with_secrets(ctx: click.Context) -> Any:  # noqa: ANN401 (as click has it)
        build_images = flyte.build_images

        @functools.wraps(build_images)
        def build_or_start(*envs: flyte.Environment, **kwargs: Any) -> Any:  # noqa: ANN401
            declared = _build_secrets(envs)
            names = {_build_name(s): _variable(s) for s in declared}
            if program := _find_inject(ctx, declared, set(names.values())):
                raise _StartAgain(program, [_flag(s, _variable(s)) for s in declared])
            for name, variable in names.items():
                if variable in os.environ:
                    os.environ[name] = os.environ[variable]
            return build_images(*envs, **kwargs)

        setattr(flyte, "build_images", build_or_start)  # noqa: B010 (mypy knows its type)
        try:
            return invoke(ctx)
        except _StartAgain as e:
            _start_again(*e.args)
        finally:
            setattr(flyte, "build_images", build_images)  # noqa: B010

    command.invoke = with_secrets  # type: ignore[method-assign]
    return command


def _build_secrets(envs: Sequence[flyte.Environment]) -> list[Secret]:
    """Return the secrets that builds of the environments' images mount on this machine."""
    config = get_init_config()
    if config is None or config.image_builder not in ("local", "local-podman"):
        return []
    images = [env.image for env in environments(envs) if isinstance(env.image, flyte.Image)]
    layers = [layer for image in images for layer in image._layers]
    mounts = [list(getattr(layer, "secret_mounts", None) or ()) for layer in layers]
    return [s for request in mounts for s in secrets_from_request(request)]


def _build_name(s: Secret) -> str:
    """Return the variable in which Flyte's builder looks for s.

    The rule is that of flyte/_internal/imagebuild/docker_builder.py.
    """
    return "_".join(filter(None, (s.group, s.key))).upper()


def _variable(s: Secret) -> str:
    """Return the variable in which inject places s: it takes no name with a hyphen."""
    return re.sub("[^A-Z0-9_]", "_", _build_name(s))


def _flag(s: Secret, variable: str | None) -> str:
    """Return the flag of inject that declares s, for a variable or else for a file."""
    name = f"{s.group}/{s.key}" if s.group else s.key
    if "/" in s.key or "=" in name:  # the flag would mean another secret
        message = f"flyteplugins-inject: no secret of inject is called {name!r}"
        raise click.ClickException(message)
    return f"--secret={name}={variable}" if variable else f"--secret-file={name}"


def _find_inject(ctx: click.Context, declared: list[Secret], variables: set[str]) -> str | None:
    """Return the path of inject if this is to start again under it.

    Otherwise say why not, where that is a surprise.
    """
    if os.environ.pop(STARTED, None) or not declared:
        return None
    if ctx.find_root().info_name != "flyte":  # another program, such as a test, calls Flyte's code
        return None
    if "INJECT_PARENT" in os.environ:
        if missing := sorted(variables - os.environ.keys()):
            _say(f"the inject that this runs under was not asked for {', '.join(missing)}")
        return None
    program = shutil.which("inject")
    if program is None:
        keys = ", ".join(sorted({s.key for s in declared}))
        _say(f"inject is not on PATH, so these secrets are not looked up: {keys}")
        return None
    return os.path.abspath(program)


def _scope() -> Iterator[str]:
    """Yield the flags of inject for Flyte's project and domain."""
    for flag, current in (("--project", flyte.current_project), ("--domain", flyte.current_domain)):
        with contextlib.suppress(InitializationError):  # it is not set
            yield f"{flag}={current()}"


def _start_again(program: str, flags: list[str]) -> NoReturn:
    """Replace this process by inject, which runs the same command line."""
    argv = [program, "run", *_scope(), *dict.fromkeys(flags), "--", sys.executable]
    sys.stdout.flush()
    sys.stderr.flush()
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and inject would, too
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.environ[STARTED] = "1"
    try:
        os.execv(program, argv + sys.orig_argv[1:])
    except OSError as e:
        message = f"flyteplugins-inject: {program} cannot be run: {e.strerror}"
        raise click.ClickException(message) from e


def _say(text: str) -> None:
    click.echo(f"flyteplugins-inject: {text}", err=True)
