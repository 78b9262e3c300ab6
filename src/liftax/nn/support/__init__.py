"""What layers share: where they are, what they mask, how they trace once."""
