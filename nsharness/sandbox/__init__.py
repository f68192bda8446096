"""The effects: the processes that turn a plan into a sandbox.

``gateway`` the two network namespaces and their listening sockets · ``rtnetlink`` what the kernel is asked
for them · ``encoding`` the process that puts it into bytes · ``zygote`` the small process that forks
sandboxes · ``first`` those forks · ``assemble`` and ``overlay`` the new root · ``road`` a look at the network
from inside · ``init`` PID 1 · ``spawn`` and ``terminal`` what it starts · ``report`` errors on their way out.
"""
