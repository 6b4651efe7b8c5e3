"""`qwave sink`: answer the experiments of others, and say what was done and what was refused.

`options` has the options, `command` the order of things, `reporting` what is written about it.
"""
