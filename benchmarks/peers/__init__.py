"""What people would use instead: scripts of their own, each as short as its author would leave it."""
