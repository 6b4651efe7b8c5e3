"""The Python faces and the subsystem inside the process."""
