-- A command's number at its host, as its envelope has it; NULL from releases that draw it into the
-- envelope only. What is not settled keeps the host's watermark below it (PROTOCOL.md, rule 3).
ALTER TABLE outbox ADD COLUMN host_number BIGINT;
CREATE INDEX outbox_unsettled ON outbox (host_id, host_number) WHERE result IS NULL;
