"""What differs between databases. Each driver is a stateless object with the methods of `base.Driver`."""
