"""What the service counts, for whoever collects numbers of many hosts (Prometheus and its like).

| module | is |
| --- | --- |
| `catalogue` | every metric with its name, its kind, its labels and what it says |
| `requests` | counts of requests, by the loop that serves them |
| `applying` | counts of what enforcement was asked for, and refused |
| `paths` | what is summed up of paths over time |
| `collecting` | a reading of everything, a page at a time |
| `exposition` | readings as text |
| `web` | one connection of a collector |
| `places` | where it connects to |
| `wishes` | what may be wrong with that in the configuration |
| `exporter` | the thread that serves collectors |
| `serving` | whether there is one |

**The loop that serves programs waits for nobody here.** It only counts, half a microsecond for a
request. A thread of its own reads: it holds the runtime's lock for a page at a time, lets go of the
interpreter between two, and reads once a second at most, however many ask.

**The text is written here**, not by Prometheus' client library: that takes 14 MB of memory and most
of a second of the start, in a program that takes 28 MB, for what are forty lines. It reads the
text in the tests.
"""
