"""The ReLU network, and everything that is read or lowered into one."""
