"""What can be measured: a subject is a training step, ours (`core`), the plain loop's (`plain`) or anybody's."""
