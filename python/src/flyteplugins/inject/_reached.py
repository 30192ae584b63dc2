"""Find the secrets that a task declares, and all that it may call in its process."""

from __future__ import annotations

import functools
import sys
import sysconfig
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from flyte import Environment, TaskEnvironment
from flyte._secret import Secret, SecretRequest, secrets_from_request
from flyte._task import TaskTemplate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LISTS = (list, tuple, set, frozenset)
_WRAPPERS = (staticmethod, classmethod, functools.partial)
_KINDS = (TaskTemplate, Environment, FunctionType, type, dict, *_LISTS, *_WRAPPERS)


def environments(envs: Iterable[Environment]) -> list[Environment]:
    """Return the environments and all that they depend on."""
    found = list(envs)
    for env in found:
        found.extend(e for e in env.depends_on if not any(e is f for f in found))
    return found


def reached(task: TaskTemplate[..., Any, Any]) -> list[Secret]:
    """Return the secrets that the task declares, and those of what it reaches.

    It reaches the environments that its own depends on, and the tasks and environments that its
    code names, or the code of functions and classes that it names. A task that is found only while
    the code runs, such as by getattr, is not seen: its environment must be in depends_on, which
    Flyte asks for anyway.
    """
    requests: list[SecretRequest | None] = []
    seen: dict[int, object] = {}
    todo: list[object] = [task]
    while todo:
        x = todo.pop()
        # Not isinstance, which asks the object for its class: a proxy may have none now.
        if id(x) in seen or not issubclass(type(x), _KINDS):
            continue
        seen[id(x)] = x
        if isinstance(x, TaskTemplate):
            requests.append(x.secrets)
            todo.append(x.parent_env() if x.parent_env else None)
            function = getattr(x, "func", None)
            todo.extend(_named(function) if isinstance(function, FunctionType) else [function])
        elif isinstance(x, TaskEnvironment):  # others, such as those of apps, run elsewhere
            requests.extend([x.secrets, *(t.secrets for t in x.tasks.values())])
            todo.extend(x.depends_on)
        elif isinstance(x, FunctionType):
            todo.extend(_named(x) if _is_own(x) else ())
        elif isinstance(x, type):
            todo.extend(vars(x).values() if _is_own(x) else ())
        elif isinstance(x, (staticmethod, classmethod)):
            todo.append(x.__func__)
        elif isinstance(x, functools.partial):
            todo.extend([x.func, *x.args, *x.keywords.values()])
        elif isinstance(x, dict):
            todo.extend(x.values())
        elif isinstance(x, _LISTS):
            todo.extend(x)
    return [s for request in requests if request for s in secrets_from_request(request)]


def _named(function: FunctionType) -> Iterator[object]:
    """Yield the variables of modules and of enclosing functions that the code names."""
    names: set[str] = set()
    todo = [function.__code__]
    for code in todo:
        names.update(code.co_names)
        todo.extend(c for c in code.co_consts if isinstance(c, CodeType))
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is empty
            continue
    namespaces: list[dict[str, object]] = [function.__globals__]
    for variables in namespaces:
        for value in [variables[name] for name in names & variables.keys()]:
            if issubclass(type(value), ModuleType):
                # Not vars, which makes a lazy module import itself.
                other = object.__getattribute__(value, "__dict__")
                if not any(other is n for n in namespaces):
                    namespaces.append(other)
            yield value
            yield type(value)


def _is_own(x: FunctionType | type) -> bool:
    """Report whether x is code of the user, and not of a library, which names no task of theirs."""
    file = getattr(sys.modules.get(x.__module__), "__file__", None) or ""
    libraries = ("/site-packages/", "/dist-packages/", sysconfig.get_path("stdlib") + "/")
    return bool(file) and not any(library in file for library in libraries)
