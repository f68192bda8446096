"""The agent: a model, a few tools, a turn, and the record of turns that are done.

Read in this order:

``ports``        what the agent needs from a sandbox, a console and a checkpoint store
``skills``       a folder of instructions, read without ever leaving it
``procedure``    what a skill's numbered steps mean (pure)
``tools``        ``exec`` and ``skill``, gated by a profile's ``allowed_tools``
``loop``         one turn, from the prompt to the answer
``engine``       the side of it that faces pydantic-ai
``script``       what the offline model does next (pure), following the procedure
``scripted``     that as a pydantic-ai model, so that it goes through the same loop
``checkpoints``  finished turns in SQLite, keyed by everything that determines them

The agent runs on the host; what it decides to run, runs in the sandbox. pydantic-ai is imported when a
turn is really taken, not before: a turn that is served from its checkpoint never pays for it.
"""
