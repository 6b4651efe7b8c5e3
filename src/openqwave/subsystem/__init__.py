"""The engine: requests and time in, effects out. Pure; shared by library and service."""
