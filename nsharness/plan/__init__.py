"""What a sandbox is, as a value: computed without privileges, printable, and then carried out as it stands.

``steps`` the vocabulary · ``facts`` what must be known of the host · ``limits`` what enforces which limit ·
``compose`` profile and facts → plan · ``handover`` a plan on its way to PID 1.
"""
