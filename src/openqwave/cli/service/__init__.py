"""`qwave service`: put `qwaved` in place, say how it is, and take it away without a trace.

| module | holds |
| --- | --- |
| `command` | the three commands, in the order in which things are done and undone |
| `layout` | where everything goes |
| `contents` | what goes there: units, man page, user, the program's own copy of the package |
| `placing` | putting files in place so that every step can be undone |
| `manifest` | the record of what was placed |
| `interpreters` | a Python that the service's user may run |
| `accounts` | the service's user |
| `supervision` | who starts and stops the program: systemd, or this command where there is none |
| `background` | a program in the background without a service manager |
| `asking` | whether the service answers |
| `reporting` | what is told |
"""
