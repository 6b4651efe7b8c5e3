"""The engine at work: what drives it, the same in the library and in the service.

===========  =====================================================================
`runtime`    calls, time and the kernel's answers, one step at a time
`session`    one handle: arguments become requests
`pending`    a request that is answered later
`surveying`  the thread that measures paths
`forks`      what a forked child must not take over
===========  =====================================================================
"""
