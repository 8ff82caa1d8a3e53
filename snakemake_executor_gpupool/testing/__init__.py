"""What tests and benchmarks share: worlds in simulated time, and a host in memory."""
