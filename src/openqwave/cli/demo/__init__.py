"""`qwave demo`: what one flow does for one stream, on this machine, with real packets.

============  =======================================================================
`stage`       the network and the traffic, played through once
`wire`        what arrived at the receiver's interface, by the kernel's word
`figures`     the numbers of both halves, and whether they are what was promised
`view`        progress on a terminal, or one line a second
`report`      the table and the closing words
`chart`       the picture
`performing`  what this demo and `demo.probe` do alike
`command`     all of it in order, and the exit status
============  =======================================================================
"""
