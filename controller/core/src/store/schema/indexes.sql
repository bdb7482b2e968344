-- What is looked for in a cloud that is large, or old: by index, and not among all that there ever was.
CREATE INDEX claims_instance ON claims (instance_id);
CREATE INDEX vmms_lost ON vmms (host_id) WHERE lost_at IS NOT NULL AND removed_at IS NULL;
CREATE INDEX vmms_there ON vmms (id) WHERE deleted_at IS NULL;
CREATE INDEX instances_quota ON instances (project_id, vcpus, memory_mib) WHERE deleted_at IS NULL;
CREATE INDEX outbox_answered ON outbox (created_at) WHERE next_send_at IS NULL;
