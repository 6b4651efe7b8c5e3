"""Bytes to messages and back: bounds-checked, without IO.

==========  ==========================================================================
`qlpb`      MS-QLPB, the layer 3 probing protocol on port 2177
`frames`    what captures are made of, and how files of them are read in pieces
`pcap`      the classic capture file
`pcapng`    the capture file of today, read and written
`packets`   the IP packet in a frame: its marks, ends and content
`faults`    what can be wrong with a message, by name
==========  ==========================================================================
"""
