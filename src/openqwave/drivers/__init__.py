"""Sockets, routes, clocks, rights, links: IO without policy."""
