"""A project's profile on a person's: it may take away what the person's grants, and add nothing. Pure.

What a workload could have written is believed only where it asks for less. A rule of the project's never
allows and never has a credential: it becomes a condition beside the person's (``only``); its denials count.
Whatever could widen is an error that names the key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from nsharness.errors import NsharnessError
from nsharness.policy.load import explain
from nsharness.policy.profile import Bound, Profile, SandboxProxyRule

_CONDITIONS: Final = {"name", "hosts", "methods", "paths", "ports", "deny", "inspect", "allow_any"}
# From the widest to the narrowest.
_MODES: Final = ("rw", "overlay", "ro")


def narrowed(user: Profile, project: Profile, source: str, workspace: str | None = None) -> Profile:
    """What is left of the person's profile where the project's asks for less. ``source`` is what messages
    call the project's file, ``workspace`` the folder that is shared where the person's profile names none.

    ``NsharnessError`` for a key of the project's that would widen anything.
    """
    update: dict[str, Any] = {name: getattr(user, name) for name in user.model_fields_set}
    if user.workspace is not None:
        update |= {"workspace": None, "filesystem": user.files}
    update["name"] = project.name
    for key in sorted(project.model_fields_set - {"name", "extends"}):
        update |= _KEYS.get(key, _same(key))(user, project, _Source(source, workspace))
    try:
        return Profile.model_validate({key: value for key, value in update.items() if value is not None})
    except ValidationError as error:
        raise explain(error, source) from None


class _Source:
    def __init__(self, file: str, workspace: str | None) -> None:
        self.file = file
        self.workspace = workspace

    def wider(self, key: str, why: str) -> NsharnessError:
        """The error of a key that would widen."""
        return NsharnessError(
            f"profile {self.file}, {key}",
            why=f"{why}, and a project's own profile can only take away",
            hint=f"put it into your own profile, or look at the file and run: nsharness trust {self.file}",
        )


_Narrow = Callable[[Profile, Profile, _Source], dict[str, Any]]


def _same(key: str) -> _Narrow:
    def check(user: Profile, project: Profile, source: _Source) -> dict[str, Any]:
        if getattr(user, key) != getattr(project, key):
            raise source.wider(key, "your own profile says something else")
        return {}

    return check


def _rules(user: Profile, project: Profile, source: _Source) -> dict[str, Any]:
    bounds: list[Bound] = []
    denials: list[SandboxProxyRule] = []
    taken = {rule.name for rule in user.sandbox_proxy_rules}
    for rule in project.sandbox_proxy_rules:
        if rule.deny:
            name = rule.name if rule.name not in taken else f"project-{rule.name}"[:64]
            denials.append(rule.model_copy(update={"name": name}))
            continue
        more = rule.model_fields_set - _CONDITIONS
        if more and rule not in user.sandbox_proxy_rules:
            raise source.wider(f"rule {rule.name}, {min(more)}", "it is more than a condition")
        bounds.append(_bound(rule))
    if bounds:
        return {**_only(user, bounds, source), "sandbox_proxy_rules": (*user.sandbox_proxy_rules, *denials)}
    return {"sandbox_proxy_rules": (*user.sandbox_proxy_rules, *denials)}


def _bound(rule: SandboxProxyRule) -> Bound:
    conditions = {key: getattr(rule, key) for key in ("hosts", "methods", "paths", "ports")}
    return Bound(**{key: value for key, value in conditions.items() if value is not None})


def _bounds(user: Profile, project: Profile, source: _Source) -> dict[str, Any]:
    if any(not rule.deny for rule in project.sandbox_proxy_rules):
        raise source.wider("only", "its rules are conditions already")
    return _only(user, list(project.only or ()), source)


def _only(user: Profile, bounds: list[Bound], source: _Source) -> dict[str, Any]:
    if user.only is not None and tuple(bounds) != user.only:
        raise source.wider("only", "your own profile has entries of its own")
    return {"only": tuple(bounds)}


def _upstreams(user: Profile, project: Profile, source: _Source) -> dict[str, Any]:
    for name, target in project.upstreams.items():
        if user.upstreams.get(name) != target:
            raise source.wider(f"upstreams.{name}", "your own profile does not map it so")
    return {}


def _env(user: Profile, project: Profile, source: _Source) -> dict[str, Any]:
    for name, text in project.env.items():
        if name in user.env and user.env[name] != text:
            raise source.wider(f"env.{name}", "your own profile sets it otherwise")
        if name not in user.env and "{{" in text:
            raise source.wider(f"env.{name}", "your own profile gives no such placeholder")
    return {"env": {**user.env, **project.env}}


def _tools(user: Profile, project: Profile, source: _Source) -> dict[str, Any]:
    for tool in project.allowed_tools:
        if tool not in user.allowed_tools:
            raise source.wider("allowed_tools", f"your own profile does not allow {tool}")
    return {"allowed_tools": project.allowed_tools}


def _stray(user: Profile, project: Profile, source: _Source) -> dict[str, Any]:
    if project.stray_placeholders == "leave" != user.stray_placeholders:
        raise source.wider("stray_placeholders", "it would leave them")
    return {"stray_placeholders": project.stray_placeholders}


def _network(user: Profile, project: Profile, source: _Source) -> dict[str, Any]:
    if project.network.unknown == "ask" != user.network.unknown:
        raise source.wider("network.unknown", "it would have you asked")
    seconds = min(project.network.ask_seconds, user.network.ask_seconds)
    return {"network": project.network.model_copy(update={"ask_seconds": seconds})}


def _privilege(user: Profile, project: Profile, source: _Source) -> dict[str, Any]:
    for key in type(project.privilege).model_fields:
        if getattr(project.privilege, key) and not getattr(user.privilege, key):
            raise source.wider(f"privilege.{key}", "your own profile does not allow it")
    return {"privilege": project.privilege}


def _limits(user: Profile, project: Profile, source: _Source) -> dict[str, Any]:
    written: dict[str, Any] = {name: getattr(user.limits, name) for name in user.limits.model_fields_set}
    mine, theirs = user.limit_values(), project.limits.values()
    for key in sorted(project.limits.model_fields_set):
        if key == "best_effort":
            wider = project.limits.best_effort and not user.limits.best_effort
        else:
            wider = _more(theirs[key], mine[key])
        if wider:
            raise source.wider(f"limits.{key}", "it is more than your own profile gives")
        written[key] = getattr(project.limits, key)
    return {"limits": type(user.limits)(**written)}


def _more(theirs: Any, mine: Any) -> bool:
    return mine is not None and (theirs is None or theirs > mine)


def _filesystem(user: Profile, project: Profile, source: _Source) -> dict[str, Any]:
    mine, theirs = user.files, project.files
    shared = mine.workspace or source.workspace
    made: dict[str, Any] = _set(mine)
    for key in sorted(theirs.model_fields_set):
        value = getattr(theirs, key)
        if key in ("hide", "protect"):
            made[key] = tuple(dict.fromkeys((*getattr(mine, key), *value)))
        elif key in ("read_only", "read_write"):
            # A path could lead anywhere by the time that it is followed: only the very same is no more.
            if not set(value) <= set(getattr(mine, key)):
                raise source.wider(f"filesystem.{key}", "it shares what your own profile does not")
        elif key == "workspace":
            if value is not None and value != shared:
                raise source.wider("filesystem.workspace", "it is another folder than you share")
        elif key == "workspace_mode":
            if _MODES.index(value) < _MODES.index(mine.workspace_mode):
                why = f"your own profile says {mine.workspace_mode}"
                raise source.wider("filesystem.workspace_mode", why)
            made[key] = value
        elif value is not None and _more(_bytes(value), user.limit_values()["tmp"]):
            raise source.wider(f"filesystem.{key}", "it is more than your own profile gives")
        else:
            made[key] = value
    return {"filesystem": {key: value for key, value in made.items() if value is not None}, "workspace": None}


def _bytes(size: str | int) -> int:
    from nsharness.policy.units import parse_size

    return parse_size(str(size))


def _set(model: BaseModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.model_fields_set}


_KEYS: Final[Mapping[str, _Narrow]] = {
    "sandbox_proxy_rules": _rules,
    "only": _bounds,
    "upstreams": _upstreams,
    "env": _env,
    "allowed_tools": _tools,
    "stray_placeholders": _stray,
    "network": _network,
    "privilege": _privilege,
    "limits": _limits,
    "filesystem": _filesystem,
    "workspace": _filesystem,
    # What an agent is told grants nothing.
    "system_prompt": lambda user, project, source: {"system_prompt": project.system_prompt},
}
