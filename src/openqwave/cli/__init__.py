"""The command `qwave`.

`main` is the program: its options, and the subcommands by name. What a subcommand does is in a
module or package of its own name, which knows nothing of the option parser and is loaded when it
is called for, so that `qwave --help` does not wait for a netlink library.

Exit statuses, for all subcommands: 0, it is so; 1, it ran and it is not so; 2, it could not run,
and standard error says why; 128 and the signal's number when it was interrupted. `probe` has two of
its own: 3, the measurement does not tell; 4, there is no sink. `status` has one: 3, there is no
service.
"""
