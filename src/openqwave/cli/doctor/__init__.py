"""`qwave doctor`: what this host can and cannot do, why, and what would help.

`options`      the command's options
`command`      in order: look, judge, show; and the exit status
`looking`      all that is asked of the kernel and the service
`findings`     what a check comes to
`checks`       what is made of what was seen, without looking itself
`filtering`    rules of a firewall, tried with a packet that is never sent
`report`       findings as a page and as a document
"""
