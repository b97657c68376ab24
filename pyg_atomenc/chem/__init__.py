"""What residues, bonds and components are: the one truth that all readers share."""
