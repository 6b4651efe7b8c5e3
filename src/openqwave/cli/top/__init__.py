"""`qwave top`: a live view of the whole host, and the same as lines for screen readers.

`command` has the order of things. `looks` asks the service, one question at a time, and goes on
where there is none; `happenings` says what changed between two looks; `arranging` sorts and
filters; `picture` and `tables` make lines of it, for any size of a terminal; `screen`, of `lines`,
puts them there, and `plain` writes changes one after the other. Only `screen` and `lines` load the
library for full screens.
"""
