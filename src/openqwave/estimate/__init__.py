"""Numbers from samples: what a path can carry, how long it takes, how sure that is. Pure.

===============  ==================================================================
`samples`        what one train or one small probe has shown; lines of JSON
`arrivals`       what the arrivals of one train show
`dispersion`     capacity, from the spacing of packets that were sent together
`idle`           the share of time a path stands idle, from one-way delays
`strain`         available bandwidth, from trains offered near the capacity
`clocks`         offset and drift between two hosts' clocks
`rtt`            round-trip time and jitter
`loss`           the share of probes that do not come back
`path`           all of it together: which method holds on which kind of path
`watch`          the same, followed with little traffic
`queueing`       what each small probe waits, told at once
`evidence`       tests that tell a change as soon as the samples bear it
`congestion`     whether a path, or one flow's, is congested
===============  ==================================================================
"""
