"""Desired marks, meters and shapers into the kernel: one module for each mechanism."""
