"""Times models: a worker process per system, in turn, on one core, beside the floor that the core's ceilings set."""
