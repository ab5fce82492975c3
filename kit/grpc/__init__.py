"""gRPC: the server every service runs, the channel to another one, who calls and what is refused."""
