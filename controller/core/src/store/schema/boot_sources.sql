-- What a server boots from, as it was when the server was asked for: what becomes of the images
-- afterwards is not the server's.
CREATE TABLE boot_sources (
    instance_id TEXT PRIMARY KEY,
    sources TEXT NOT NULL                    -- JSON: images by id and checksum, the command line
);

-- Ids of images that were deleted. None is given again.
CREATE TABLE retired_images (
    id TEXT PRIMARY KEY,
    deleted_at BIGINT NOT NULL
);
