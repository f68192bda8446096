"""The credential proxy: a program of its own, which alone holds the credentials while sandboxes run.

Read in this order: ``__main__`` (the process), ``control`` (its supervisor), ``engine`` (attach and
detach), ``sandbox`` (what is known of one), ``judge`` and ``decision`` (the decisions), ``claims``,
``refusal``, ``sending`` and ``scrubbing`` (their inputs and outputs), ``asking`` (waiting for a person),
``http1`` and ``hello`` (what clients begin with).

Bytes are moved by one of two engines. ``fast`` is our own for HTTP/1.1. For mitmproxy ``listener`` and
``connection`` say who is served, ``door`` and ``guard`` put each step before the judge, ``layers``,
``secured`` and ``host`` are HTTP and TLS, ``streams`` and ``codec`` HTTP/2, ``conversation`` and ``pool``
have all connections of a client, and ``handover`` those that ``fast`` began.

``tls``, ``ca`` and ``upstream`` are the two sides, ``dns`` and ``stub`` names, and ``report`` is what is said
about it all.
"""
