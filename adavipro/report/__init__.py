"""What came out: results, tables and effects, and the published figures beside them."""
