"""The effects: the processes that turn a plan into a sandbox.

``gateway`` the two network namespaces and their listening sockets · ``zygote`` the small process that forks
sandboxes · ``build`` what one fork does until the workload may start · ``init`` PID 1 inside · ``shell``
the persistent bash, seen from outside · ``wire`` the messages between all of them.
"""
