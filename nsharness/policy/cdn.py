"""Names at content delivery networks and shared hosters, where one server speaks for many customers.

Inside a tunnel to such a server a client can ask for another customer's name (domain fronting), so
connections to these names are intercepted. The list names the networks' own domains; a customer's
own name that leads there cannot be told by its name: a profile sets ``inspect = true`` for it.
"""

from __future__ import annotations

_DOMAINS = frozenset(
    {
        "akadns.net",
        "akamai.net",
        "akamaiedge.net",
        "akamaihd.net",
        "akamaized.net",
        "amazonaws.com",
        "amplifyapp.com",
        "appspot.com",
        "azureedge.net",
        "azurefd.net",
        "azurewebsites.net",
        "b-cdn.net",
        "bitbucket.io",
        "blob.core.windows.net",
        "bunny.run",
        "cachefly.net",
        "cdn77.org",
        "cdn.cloudflare.net",
        "cloudflare.com",
        "cloudflare.net",
        "cloudflarestorage.com",
        "cloudfront.net",
        "cloudfunctions.net",
        "deno.dev",
        "edgecastcdn.net",
        "edgekey.net",
        "edgesuite.net",
        "fastly.net",
        "fastlylb.net",
        "firebaseapp.com",
        "fly.dev",
        "gcdn.co",
        "github.io",
        "githubusercontent.com",
        "gitlab.io",
        "googleapis.com",
        "googleusercontent.com",
        "gstatic.com",
        "herokuapp.com",
        "hwcdn.net",
        "jsdelivr.net",
        "kxcdn.com",
        "llnwd.net",
        "netlify.app",
        "ngrok.io",
        "on.aws",
        "onrender.com",
        "pages.dev",
        "r2.dev",
        "run.app",
        "stackpathdns.com",
        "trafficmanager.net",
        "unpkg.com",
        "vercel.app",
        "web.app",
        "windows.net",
        "workers.dev",
    }
)


def is_on_cdn(host: str) -> bool:
    """Whether a canonical host is at or below one of the domains."""
    labels = host.split(".")
    return any(".".join(labels[start:]) in _DOMAINS for start in range(len(labels)))
