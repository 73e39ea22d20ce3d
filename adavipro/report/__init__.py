"""What came out: results as numbers until they are printed, tables and effects, and the published figures beside them."""
