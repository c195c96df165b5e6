"""Processes that take turns: they are started, told what to do, and ended.

The regression check and the race measure with them.
"""
