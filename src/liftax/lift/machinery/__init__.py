"""What the lifted transforms share: calls, operands, checks, axes."""
