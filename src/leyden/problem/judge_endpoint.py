"""The endpoint of a judge: where it is, and who may call it.

The key comes from the environment, lives in an object that does not show it, and is blotted out of what comes back.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from leyden.settings.errors import ConfigError

if TYPE_CHECKING:
    import openai

PUBLIC = "https://api.openai.com/v1"
NO_KEY = "no-key"  # the client wants one, endpoints of one's own often do not
AZURE_VERSION = "2023-05-15"

_SHORTEST_SECRET = 4
_CONNECT_S = 10.0


@dataclass(frozen=True)
class Endpoint:
    """Where calls go.

    Attributes:
        url: base address; of Azure, that of the resource.
        key: never shown.
        source: the setting or variable that names the address; empty: none, it is the public one.
        deployment: of Azure; None elsewhere.
        version: of Azure's interface.
    """

    url: str
    key: str = field(repr=False)
    source: str = ""
    deployment: str | None = None
    version: str = AZURE_VERSION

    @property
    def where(self) -> str:
        """The address with what named it."""
        return f"{self.source}={self.url!r}" if self.source else f"the endpoint {self.url}"

    def unreachable(self) -> str | None:
        """Why no connection can be made; None if one can, or if a proxy would make it. Nothing is sent."""
        parts = urlsplit(self.url)
        host, proxies = str(parts.hostname), getproxies()
        if (parts.scheme in proxies or "all" in proxies) and not proxy_bypass(host):
            return None
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((host, port), timeout=_CONNECT_S).close()
        except OSError as error:
            return error.strerror or str(error)
        return None

    def client(self, timeout: float) -> openai.OpenAI:
        """A client that repeats nothing by itself.

        Args:
            timeout: seconds to connect, and to wait for the next bytes of an answer.
        """
        import openai

        if self.deployment is not None:
            return openai.AzureOpenAI(
                azure_endpoint=self.url,
                azure_deployment=self.deployment,
                api_version=self.version,
                api_key=self.key,
                timeout=timeout,
                max_retries=0,
            )
        return openai.OpenAI(base_url=self.url, api_key=self.key, timeout=timeout, max_retries=0)

    def hide(self, text: str) -> str:
        """The text without the key, should an endpoint send it back."""
        secret = self.key != NO_KEY and len(self.key) >= _SHORTEST_SECRET
        return text.replace(self.key, "***") if secret else text


def find_endpoint(base_url: str | None, environment: Mapping[str, str]) -> Endpoint:
    """The endpoint that a setting and the environment name.

    Args:
        base_url: the setting; None: OPENAI_BASE_URL, OPENAI_API_BASE, else the public endpoint.
        environment: such as `os.environ`; an empty variable counts as not set.

    Raises:
        ConfigError: with all faults of address, key and, with OPENAI_API_TYPE=azure, deployment.
    """
    kind = environment.get("OPENAI_API_TYPE") or "open_ai"
    azure = kind.lower() == "azure"
    names = ["OPENAI_BASE_URL", "OPENAI_API_BASE", *(["AZURE_OPENAI_ENDPOINT"] if azure else [])]
    source, url = next(
        ((name, value) for name, value in [("metric.gpt.base_url", base_url), *((n, environment.get(n)) for n in names)]
         if value),
        ("", None),
    )  # fmt: skip
    key = (environment.get("OPENAI_API_KEY") or (azure and environment.get("AZURE_OPENAI_API_KEY")) or "").strip()
    deployment = environment.get("OPENAI_API_DEPLOYMENT_ID")
    faults = [] if url is None else _address_faults(source, url)
    if kind.lower() not in ("azure", "open_ai", "openai"):
        faults.append(f"OPENAI_API_TYPE={kind!r} is not known. Allowed: open_ai, azure.")
    if azure and url is None:
        faults.append("OPENAI_API_TYPE=azure needs the address of the resource. Set OPENAI_API_BASE.")
    if azure and not deployment:
        faults.append("OPENAI_API_TYPE=azure needs a deployment. Set OPENAI_API_DEPLOYMENT_ID.")
    if not key and (azure or url is None):
        faults.append(
            "metric=gpt needs a key. Set the environment variable OPENAI_API_KEY, or metric.gpt.base_url to an "
            "endpoint that asks for none."
        )
    # The client would put such a key, in full, into the message of an exception.
    if not all(" " < character <= "~" for character in key):
        faults.append("OPENAI_API_KEY holds a blank, a line end or another character that no key has. Set it again.")
    if faults:
        raise ConfigError(faults)
    version = environment.get("OPENAI_API_VERSION") or AZURE_VERSION
    return Endpoint(url or PUBLIC, key or NO_KEY, source, deployment if azure else None, version)


def _address_faults(source: str, url: str) -> list[str]:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return [f"{source} is no address. Give one such as http://localhost:8000/v1."]
    if parts.username or parts.password or parts.query or parts.fragment:
        # It may hold a key, so it is not shown.
        return [f"{source} must hold no name, password, `?` or `#`: it is saved. Put the key into OPENAI_API_KEY."]
    return [] if sound else [f"{source}={url!r} is no address. Give one such as http://localhost:8000/v1."]
