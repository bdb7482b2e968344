-- The size of the disk in an image, where that is not the file's: qcow2. In a table of its own,
-- since controllers of the release before read all columns of images.
CREATE TABLE virtual_sizes (
    image_id TEXT PRIMARY KEY,
    bytes BIGINT NOT NULL
);
