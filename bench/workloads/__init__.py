"""What each kind of case measures: one row a workload, and the roofline that limits it."""
