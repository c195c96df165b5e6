"""Which measurements there are: `Case`, one field an axis, and the suites that sweep over the axes."""
