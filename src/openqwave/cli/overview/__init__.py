"""`qwave flows`, `qwave paths`, `qwave status`: the whole host, as the service sees it.

`command` has the order of things: `asking` speaks to the service, `filters` leaves out what is not
wanted, `flows`, `paths` and `status` say what is shown of each, `pages` and `words` how, and
`showing` puts it on a terminal, in a file, or there as JSON.
"""
