"""A toy particle-physics classifier: simulated collisions and a network that tells signal from background."""
