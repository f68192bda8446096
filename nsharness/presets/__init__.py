"""Ready-made parts of profiles for well-known programs and services; read in the order below.

``catalogue`` reads the data files beside it, one a preset. ``settings`` finds out from the configuration of
this machine's own tools which package registries they use: no list of ours has any. ``filling`` makes rules
and variables of both, which ``policy.commandline`` adds to a profile, and ``writing`` a commented profile.
"""
