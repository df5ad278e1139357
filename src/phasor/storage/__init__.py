"""Any S3: reading and writing whole objects, DVC-tracked data by digest, and what an interrupted task had done."""
