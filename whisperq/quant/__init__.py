"""Mathematics on tensors: the affine grid, range estimators, schemes. Knows no model and no disk."""
