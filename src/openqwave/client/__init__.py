"""The Python faces, and where they find a subsystem: the service, or one inside the process."""
