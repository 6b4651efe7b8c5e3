"""Programs that ask for nothing, and are spoken for: runs of users, rules of the administrator.

==============  ========================================================================
`treatments`    what was asked for, as what the kernel is to do
`conditions`    what the names in rules come to on this host: users, files
`ruling`        rules as claims, the best first, and what cannot be carried out
`surveying`     sockets that were there before rules came
`runs`          cgroups that are held until nobody is in them
`runfile`       runs as a file, for the next start of the service
`spoken`        all of it together: requests, changes, what is told of it
==============  ========================================================================
"""
