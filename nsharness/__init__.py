"""nsharness: an agent's shell uses credentials that it can never read.

Read in this order: ``policy`` (what may be asked for), ``credentials`` (what is attached to it), ``plan``
(what a sandbox is), ``linux`` (the kernel facilities), ``sandbox`` (the processes that apply the plan),
``supervisor`` (who starts and ends them), ``tools`` (what a model sees of it), ``agent`` and ``stages``
(what runs inside), ``cli``. All of them use ``errors`` and ``frozen``.

The names below are loaded when they are first used: importing nsharness costs nothing.
"""

from __future__ import annotations

# As of the module typing, whose import would take half the time that a short command has.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsharness.errors import NsharnessError
    from nsharness.policy.profile import Profile, SandboxProxyRule
    from nsharness.supervisor.facade import AsyncSandbox, Sandbox, Sandboxes
    from nsharness.supervisor.mocks import MockServices
    from nsharness.supervisor.proxy import NamespaceProxy
    from nsharness.supervisor.sandbox import Completed, NamespaceSandbox

__version__ = "0.1.0"

__all__ = [
    "AsyncSandbox",
    "Completed",
    "MockServices",
    "NamespaceProxy",
    "NamespaceSandbox",
    "NsharnessError",
    "Profile",
    "Sandbox",
    "SandboxProxyRule",
    "Sandboxes",
    "__version__",
]

_HOME = {
    "AsyncSandbox": "nsharness.supervisor.facade",
    "Completed": "nsharness.supervisor.sandbox",
    "MockServices": "nsharness.supervisor.mocks",
    "NamespaceProxy": "nsharness.supervisor.proxy",
    "NamespaceSandbox": "nsharness.supervisor.sandbox",
    "NsharnessError": "nsharness.errors",
    "Profile": "nsharness.policy.profile",
    "Sandbox": "nsharness.supervisor.facade",
    "Sandboxes": "nsharness.supervisor.facade",
    "SandboxProxyRule": "nsharness.policy.profile",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
