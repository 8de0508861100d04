"""A job over the devices of a cluster: one trainer a device, and one that gives them runs and keeps the folder."""
