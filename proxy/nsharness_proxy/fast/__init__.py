"""The engine for HTTP/1.1: protocols of the event loop that move bytes, and decide nothing.

Read in this order: ``service`` (the connections of one listener), ``front`` (what a client's connection
begins with) and ``client`` (its requests), ``host`` (a connection to a host, answer by answer) and ``hosts``
(all of them that a sandbox has), ``framing`` (bodies), ``wire`` (heads), ``secured`` (TLS on either side),
``relay`` (tunnels). What this engine does not speak, HTTP/2 and WebSockets, is handed over to mitmproxy
before anything was decided on.
"""
