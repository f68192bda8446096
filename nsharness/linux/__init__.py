"""One kernel facility a file; everything that is not expressible in the standard library goes through here.

``libc`` the system calls that Python does not wrap · ``process`` who a process is and what it may do ·
``forking`` a fork into a pid namespace · ``fds`` descriptors: sealed memory, passing them with messages ·
``open_files`` how many there may be · ``mounts`` the mount calls · ``userns`` user namespaces, their maps ·
``cgroups`` control groups · ``identity`` on whose behalf we run · ``signals`` handlers that run at once ·
``chain`` the start of a sandbox, tried step by step · ``probe`` what this kernel allows, found out by that ·
``surroundings`` and ``diagnosis`` why not, and what helps here (pure) · ``apparmor`` a profile for Ubuntu ·
``examine`` all of it for ``doctor``.
"""
