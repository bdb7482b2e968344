-- A step has as many commands as it names, about a subject of any kind; '' is the name of the one
-- command of a step, and "vmm_id" is the subject's id, as releases have it that knew only VMMs.
ALTER TABLE outbox ADD COLUMN command TEXT NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN subject_kind TEXT NOT NULL DEFAULT 'vmm';
DROP INDEX outbox_step;
CREATE UNIQUE INDEX outbox_command ON outbox (operation_id, step, attempt, command);
