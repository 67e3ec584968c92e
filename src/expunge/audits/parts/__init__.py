"""What audits are made of: measures and machinery that know no audit."""
