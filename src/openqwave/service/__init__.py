"""qwaved: one subsystem for all processes of a host."""
