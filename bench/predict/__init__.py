"""How long a step takes on many processes: a model of collectives, and the schedule of the real step."""
