"""`qwave demo adaptive`: two streams that adapt to a path which others fill.

=============  ======================================================================
`script`       the rates and the times of the story
`performer`    the program that streams: a process on the near host
`recording`    what the performer says and the link's books hold, as values
`crossing`     each packet of the streams at both ends of the link
`stage`        the hosts and the link between them, played through once
`turns`        the calls that make the story
`figures`      what happened when, beside what is true
`promises`     whether that is what should be
`view`         progress on a terminal, or a line for each event
`report`       the table and the closing words
`chart`        the picture
`command`      all of it in order, and the exit status
=============  ======================================================================
"""
