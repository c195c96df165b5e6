"""Does a configuration train the same GAN? Tiers T0 to T4, each a module; convergence and equivalence are T3."""
