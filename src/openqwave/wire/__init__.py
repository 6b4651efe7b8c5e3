"""Bytes to messages and back: bounds-checked, without IO.

==========  ==========================================================================
`qlpb`      MS-QLPB, the layer 3 probing protocol on port 2177
`faults`    what can be wrong with a message, by name
==========  ==========================================================================
"""
