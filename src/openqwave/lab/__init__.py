"""Virtual hosts, links and cross traffic in network namespaces: for demonstrations, tests, benches.

A lab is one process's private internet. Every host is an anonymous network namespace, every
link a veth pair, every bottleneck a queueing discipline on a router; or the link is two taps and
a process between them that behaves as a model says. Nothing has a name outside the process, so
nothing can be left behind: the kernel takes a namespace apart when the last descriptor, thread or
process in it is gone, however the process ended.

==============  =====================================================================
`namespaces`    namespaces held by descriptors; the user namespace that spares root
`topology`      `Lab`: hosts and routers, joined by links, with addresses and routes
`hosts`         what it makes: `Host`, `Interface`, `Link`
`wiring`        interfaces, addresses and routes by netlink
`offloads`      segmentation and checksums done by the kernel, not left to the "device"
`shape`         a link's rate, queue and DSCP-aware priority
`links`         what an emulated link is made of: stages, impairments, cross traffic
`pathmodel`     such a link on a virtual clock, and the truth about it, from
                `queues`, `crosstraffic` and `tally`
`emulation`     such a link between two hosts: the process `emulator` between two
                `taps`, with `remarking` of what passes
`capture`       what passed an interface: DSCP, ECN, length, kernel time
`processes`     child processes that cannot outlive the lab
`specs`         what a generator or a sink is to do
`steps`         what a generator does to its socket on the way: marks, flows, phases
`traffic`       generators and sinks at work: `agent` in child processes
==============  =====================================================================

Needs root or a user namespace; `namespaces.availability` says which, or why neither. The modules
are imported one by one: an agent's process needs the generators, not the netlink library.
"""
