"""qwaved: one subsystem for all processes of a host.

==============  ==================================================================
`daemon`        everything put together: the program
`server`        the loop that serves all clients, in one thread
`peers`         one connection, and `surroundings`: what that needs of the server
`owners`        the processes at the other ends
`turns`         whose packet is read next
`dispatch`      from a request to a call on a session
`access`        who a client is, in the kernel's words
`incidents`     what went wrong with clients: counted, and logged once
`showing`       what clients are shown of the whole host: `views` makes the rows,
                `sending` counts what flows send
`config`        the administrator's file, by `settings`, `reading`, `toml_lines`
`activation`    listeners, passed by a service manager or made here
`notify`        what the service manager is told
`recovery`      giving back what the last run had marked when it was killed
`estimates`     what is known of paths, from one run to the next
==============  ==================================================================
"""
