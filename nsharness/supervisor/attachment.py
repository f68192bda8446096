"""What the proxy is told of one sandbox, and is told again when it is started anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nsharness.frozen import field, frozen


@frozen
class Attachment:
    """One sandbox at the proxy: its listeners, its policy, where its audit lines go."""

    sandbox: str
    listeners: tuple[int, ...]
    audit: int
    policy: Mapping[str, Any]
    bearer: str | None = field(shown=False)
    client: tuple[str, str] | None = field(default=None, shown=False)
    """The certificate by which the sandbox identifies itself, and its key; PEM."""

    @property
    def environment(self) -> dict[str, str]:
        """What the workload's environment needs in addition, for proxying with a bearer or certificate."""
        if self.bearer is not None:
            url = f"http://{self.bearer}@10.127.0.1:3128"
        elif self.client is not None:
            url = "https://10.127.0.1:3129"
        else:
            return {}
        lower = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), url)
        return lower | {name.upper(): value for name, value in lower.items()}
