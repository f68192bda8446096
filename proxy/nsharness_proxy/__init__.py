"""The credential proxy: a program of its own, which alone holds the credentials while sandboxes run.

Read in this order: ``__main__`` (the process), ``control`` (its supervisor), ``engine`` (attach and
detach), ``sandbox`` (what is known of one), ``judge`` (the decisions), ``claims``, ``refusal``, ``sending``
and ``scrubbing`` (their inputs and outputs), ``listener`` and ``connection`` (who is served), ``door`` and
``guard`` (each step put before the judge), ``layers`` (HTTP), ``streams`` and ``codec`` (HTTP/2), ``conversation`` and ``pool`` (all connections of a
client), ``tls``, ``ca`` and ``upstream`` (the two sides), ``dns`` and ``stub`` (names), ``report``
(what is said about it all).
"""
