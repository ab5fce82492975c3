"""The whole suite on one machine: its ports, its secrets, its processes and who watches over them."""
