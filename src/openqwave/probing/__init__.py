"""Sessions of the probing protocol, without IO: bytes, stamps and time in, effects and events out.

===============  ==================================================================
`session`        what every session takes and gives: effects, stamps, events
`handshake`      the connection that packet pair and route check begin with
`outcomes`       how a session ends
`payloads`       sizes and contents of probes
`packet_pair`    initiator of trains of packets; the sink times them
`trains`         what is wanted of a train and what came of it
`patience`       how long a train's report is waited for
`probegap`       initiator of small probes that the sink sends back
`gaps`, `pace`   one such probe; when they leave
`route_check`    initiator of the 802.1p experiment
`sink`           the far end of all three; `sink_limits`, `sink_refusals`, `sink_reports`,
                 `sink_experiments` and `sink_sessions` are its parts
`bundle`         several sessions as one
`schedule`       how long trains are and how many, from what is believed of the path
`progress`       what is wanted of a measurement, how far it is, what it found
`measurement`    a whole measurement of a path: which experiment when, and the result
`watching`       a path that is watched, from a measurement on; `tempo` is how much that sends
`tracking`       one path for as long as somebody is interested: measured, watched, measured again
`budget`         what all of that may cost, and `spending` what of it is for what
===============  ==================================================================
"""
