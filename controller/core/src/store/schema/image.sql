-- Tables of the image API. Times are Unix milliseconds; flags are 0 or 1.
CREATE TABLE IF NOT EXISTS images (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    name TEXT,
    status TEXT NOT NULL,                    -- queued, saving, active, deactivated
    visibility TEXT NOT NULL,
    container_format TEXT,
    disk_format TEXT,
    min_disk BIGINT NOT NULL,
    min_ram BIGINT NOT NULL,
    protected BIGINT NOT NULL,
    hidden BIGINT NOT NULL,
    size BIGINT,
    md5 TEXT,
    sha512 TEXT,
    upload TEXT,                             -- whose data is being saved: one upload's random id
    tags TEXT NOT NULL,                      -- JSON list
    properties TEXT NOT NULL,                -- JSON object of strings
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS images_owner ON images (owner);

-- An agent's right to an image's bytes, as long as the operation runs that it is for.
CREATE TABLE IF NOT EXISTS image_tokens (
    token_hash TEXT PRIMARY KEY,
    image_id TEXT NOT NULL,
    operation_id TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS image_tokens_operation ON image_tokens (operation_id);
