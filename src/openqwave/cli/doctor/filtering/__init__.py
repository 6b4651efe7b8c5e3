"""Rules of a firewall, tried with a packet that is never sent.

Rules are read as far as they are understood; what is not understood may match or not. So a packet
passes, is dropped, or may be either, and the rules that decide are named.

`walk`         chains, rules, and what becomes of a packet
`nft`          the rules of nftables, as libnftables lists them
`iptables`     those of iptables, as its own programs save them
"""
