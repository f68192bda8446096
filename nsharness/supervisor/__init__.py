"""Lifetimes: who starts, watches and ends the processes of a run.

``session`` one run: identity, state directory, zygote · ``hub`` the thread that listens to all of them ·
``child`` how a helper process is started · ``credentials`` the resolver and what it left behind · ``mocks``,
``proxy``, ``sandbox`` the three context managers · ``shell`` the persistent bash, ``bounded`` its output,
``cancel``, ``onecall`` its interruption · ``state``, ``control``
run directories and the way into a running one · ``claim``, ``orphans`` who lives, and what the dead have
left · ``limits`` what a sandbox may use · ``reload`` a changed profile for a run that lives.
"""
