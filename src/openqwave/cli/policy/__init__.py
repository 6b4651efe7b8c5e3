"""`qwave policy`: what the administrator's files say, and which rule would hold for a program."""
