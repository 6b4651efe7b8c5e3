"""What is made of what was seen: each check is a function of facts, and looks at nothing itself.

`kernel`       its version, and what comes with it
`rights`       of who runs this, and of the service
`program`      the kernel's program, cgroup v2, nftables
`queues`       fq and HTB, and the root queue of each interface
`interfaces`   their kinds, IPv6, and what they do to packets
`firewall`     whether port 2177 is open
`clock`        the clock, and stamps
`foreign`      QoS that others have set up
`service`      whether it runs, as what, and who may do what
`way`          how one host is reached
"""
