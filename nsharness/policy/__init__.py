"""What may be asked for: profiles, and the decision on one request.

Read in this order: ``hosts`` and ``paths`` (one canonical form each, and the patterns over it),
``request`` (what is decided on), ``authority`` (where a request really goes), ``model`` (rules as plain
values) and ``decide``; ``names`` (synthetic addresses), ``remembering``; ``profile`` and ``resources`` (what
people write), ``suffixes`` and ``load``. Everything is pure but ``load``, which reads a file, and everything
but those three needs the standard library only.
"""
