-- The algorithms that discovery lists from a key set's first day, with spaces
-- between. They count in the row's sum where there are any, so that the rows of
-- before keep theirs.
ALTER TABLE keyset ADD COLUMN announced TEXT NOT NULL DEFAULT '';
