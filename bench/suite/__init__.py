"""Which measurements there are: `Case`, one field an axis; a row for each workload; and suites of cases."""
