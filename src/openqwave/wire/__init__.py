"""Bytes to messages and back: bounds-checked, without IO. One module a protocol."""
