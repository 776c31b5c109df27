"""Who a process is: container, service, labels."""
