"""Marks by nftables, for hosts that refuse BPF.

`ruleset`   what our table looks like, as text for `nft`
`library`   `nft` in this process: chains and rules, which are made rarely
`netlink`   the kernel's protocol, as far as elements need it
`elements`  elements of the table's maps: put, taken, read and listed
`table`     the whole of it in the kernel, and what others did to it
`names`     what a socket's packets look like
`claims`    which sockets want which element, and what changes when they want otherwise
`closed`    the kernel's word on which sockets were closed
`backend`   `NftMarks`: plans become elements
"""
