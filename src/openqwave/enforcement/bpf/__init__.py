"""A program in the kernel, at the exit of every interface, and the tables that it looks into.

`egress.bpf.c` what becomes of a packet; `egress.bpf.o` is built of it by ``scripts/bpf.sh``
`layout`       the structures that program and service share
`elf`          what is in the object
`syscalls`     bpf(2)
`table`        what the tables hold: `FlowTable`
`program`      object and tables into the kernel: `EgressProgram`
"""
