"""Sessions of the probing protocol, without IO: bytes, stamps and time in, effects and events out.

===============  ==================================================================
`session`        what every session takes and gives: effects, stamps, events
`packet_pair`    initiator of trains of packets; the sink times them
`probegap`       initiator of small probes that the sink sends back
`route_check`    initiator of the 802.1p experiment
`sink`           the far end of all three
`bundle`         several sessions as one
`schedule`       how long trains are and how many, from what is believed of the path
`measurement`    a whole measurement of a path: which experiment when, and the result
`watching`       a path that is watched, from a measurement on
===============  ==================================================================
"""
