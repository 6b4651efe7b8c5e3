"""The control protocol between programs and the service, without IO.

An AF_UNIX SOCK_SEQPACKET connection is a handle; each packet is one JSON object whose ``type``
says what it is. Docs: ``docs/control-protocol.md``.

============  ==========================================================================
`packets`     what all packets are: base, ids, sizes
`messages`    every packet, and bytes to packets
`rows`        what lists and the status consist of
`programs`    the same for programs that ask for nothing
`refusals`    and for what was refused
`values`      what answers hold: values of the model as JSON and back
`pages`       lists in answers
`serving`     `ServiceEnd`: the service's end of one connection
`asking`      `ClientEnd`: the program's end
`errors`      `ProtocolError`
============  ==========================================================================
"""
