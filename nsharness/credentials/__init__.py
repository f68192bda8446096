"""What is attached to a request: secrets, from the store to the proxy, never past either.

Read in this order: ``secret`` (the type that a value travels in), ``template`` (``{{ wiki.token }}``),
``build`` (rules and templates to the credential map), ``store`` (files), ``resolver`` (the process that
does it and exits). All of it needs the standard library only.
"""
