"""`qwave probe`: measure the path to a host that runs `qwave sink`, and say what was found.

`command` has the order of things, `target` the host, `outcome` the result as a value with its
JSON, `rendering` its text, `progress` what is shown meanwhile, `recording` the file of samples.
"""
