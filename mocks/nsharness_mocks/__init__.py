"""The services of the demo: a small wiki and a webhook, real HTTP servers on one loopback port.

They stand for the upstreams that want a credential, and they never hold one: at start they are given the
SHA-256 of each token. Started as ``python -I -m nsharness_mocks``; read in this order:

``wiki``      GET /snippets/{topic}, the texts included
``webhook``   POST /webhooks/{id}
``tokens``    who may come in, and what of a token may be shown
``replies``   the refusals that both share, in JSON
``app``       one port, many hosts; one event a request
``events``    the channel to the supervisor
``program``   the process
"""
