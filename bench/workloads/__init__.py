"""How each workload of `bench.suite.workloads` is measured, and the roofline that limits a step."""
