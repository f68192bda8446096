"""What the proxy decided, as values and as lines in a file.

``event`` is one decision · ``log`` writes one JSON line for each to a descriptor, and reads them back.
"""
