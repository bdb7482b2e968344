-- Projects with which an image is shared: each says whether it wants it among its own.
CREATE TABLE image_members (
    image_id TEXT NOT NULL,
    member TEXT NOT NULL,                    -- a project
    status TEXT NOT NULL,                    -- pending, accepted, rejected
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (image_id, member)
);
CREATE INDEX image_members_member ON image_members (member);
