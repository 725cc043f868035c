"""What the benchmark of couplings is made of: methods, calibration, known pairs."""
