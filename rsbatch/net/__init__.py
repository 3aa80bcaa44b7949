"""The network: the service, downloads, and the guard in front of them."""
