"""`qwave demo probe`: what a measurement says of three links, beside what they did carry.

`cases` has the links, `stage` measures them by `qwave probe`, `figures` holds each answer against
the link's own books, and `report`, `view` and `chart` show it. `command` has the order of things.
"""
