"""The merge of gradient work: done by the trainer (`service`), repeated by anybody without torch (`recomputed`)."""
