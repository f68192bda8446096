"""How long a client is waited for that owes a request, or the rest of one's head; whichever engine waits."""

from __future__ import annotations

HEAD_SECONDS = 60.0
"""How long a client may take until a request's head is whole: from when it connects, also through a CONNECT
request and a TLS handshake, and later from the head's first byte."""
