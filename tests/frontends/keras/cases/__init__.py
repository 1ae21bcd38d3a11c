"""Models of every layer and option, by family: a case makes a Keras model of drawn sizes."""
