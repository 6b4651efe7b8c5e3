"""`qwave capture`: packets with their marks, and MS-QLPB in words.

===============  ========================================================================
`command`        the whole of it, in order
`sources`        frames of an interface or of a file
`conversations`  messages of MS-QLPB in packets, connections put together
`words`          a packet and a message for people, and as fields
`reporting`      lines, objects, and the count at the end
`filters`        which packets are asked for
===============  ========================================================================
"""
