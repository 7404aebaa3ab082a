"""CTR models behind one seam: networks, boosted trees, and networks that may be released."""
