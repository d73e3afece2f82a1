"""What is wrong on this host, one line per finding, with the command that mends it.

Edge: looks at everything, changes nothing. Each area's checks are one file; `examine.py` runs them.
"""
