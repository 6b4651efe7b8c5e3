"""`qwave run` and `qwave attach`: flows for programs that cannot be changed.

`wishes` reads what their traffic is to get. `starting` makes a cgroup, has the service treat what
is in it, and becomes the command; `scopes` asks systemd for a place where a cgroup may be made.
`attaching` does it for processes that run already, and takes it back; `gathering` moves them.
"""
