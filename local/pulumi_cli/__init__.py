"""The Pulumi CLI of the local stack. `go/` pins the source from which it is built where none is installed."""
