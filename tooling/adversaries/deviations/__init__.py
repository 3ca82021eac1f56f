"""What a dishonest prover may do to weights, decoding or proof, each as a value that a study or an attack runs."""
