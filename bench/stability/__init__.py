"""Does a configuration train the same GAN? Tiers T0 to T4, convergence and equivalence."""
