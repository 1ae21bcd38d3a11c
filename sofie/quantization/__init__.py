"""From floats to integers of 8 and 4 bits, after training: calibration, scales, QuantizeLinear, and what it costs."""
