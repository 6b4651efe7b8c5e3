"""Who may have what: marks by policy, rights, quotas, rates that paths can carry. Pure.

========== ==================================================================
`policy`   the administrator's decisions, as one value
`rights`   the kernel's word on a caller, weighed against them
`ledger`   how much of each link is promised to whom, and what is left of it
`ceilings` how much of it policy lets contracts have together
========== ==================================================================
"""
