"""The background supervisor: ready runs for command lines, so that nobody waits for imports.

It keeps *spares*: processes that have imported everything and have started a zygote and a proxy. A command
line that finds it hands its arguments, environment, working directory and standard streams to one of
them, which is from then on the supervisor of that one run, and of no other: runs share nothing. See
docs/background.md.
"""
