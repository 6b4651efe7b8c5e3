"""The engine at work: what drives it, the same in the library and in the service.

===============  =================================================================
`runtime`        the whole: calls, paths, policy, a sink
`steps`          calls, time and the kernel's answers, one step at a time
`sweeping`       sockets that were closed without a word
`session`        one handle: arguments become requests
`pending`        a request that is answered later
`surveying`      the thread that measures paths
`experimenting`  its sessions towards sinks
`ownsink`        its sink for others
`pathmemory`     what it keeps of paths for the next run
`forks`          what a forked child must not take over
===============  =================================================================
"""
