//! What the VMM refuses, and in which words and bytes.

use serde_json::json;

use super::*;

const BEFORE_START: &str = "The requested operation is not supported before starting the microVM.";

#[test]
fn refusals_have_firecrackers_texts() {
    let vmm = Vmm::start();
    let disk = vmm.file("disk", 4096);
    let drive = |id: &str, root: bool, path: &str| json!({"drive_id": id, "path_on_host": path, "is_root_device": root, "is_read_only": false});
    let cases = [
        (
            "PUT",
            "/boot-source",
            json!({"kernel_image_path": "foo.bar"}),
            "The kernel file cannot be opened: No such file or directory (os error 2)",
        ),
        (
            "PATCH",
            "/boot-source",
            json!({"boot_args": ""}),
            "Invalid request method and/or path: PATCH boot-source.",
        ),
        (
            "PUT",
            "/boot-source",
            json!({"kernel_image_path": "x", "initrd": "y"}),
            "An error occurred when deserializing the json body of a request: unknown field `initrd`",
        ),
        (
            "PUT",
            "/machine-config",
            json!({"mem_size_mib": 128}),
            "missing field `vcpu_count`",
        ),
        (
            "PUT",
            "/machine-config",
            json!({"vcpu_count": 2}),
            "missing field `mem_size_mib`",
        ),
        (
            "PUT",
            "/machine-config",
            json!({"vcpu_count": 2, "mem_size_mib": 18_446_744_073_709_551_616.0}),
            "error occurred when deserializing the json body of a request: invalid type",
        ),
        (
            "PATCH",
            "/machine-config",
            json!({"mem_size_mib": 0}),
            "The memory size (MiB) is either 0, or not a multiple of the configured page size.",
        ),
        (
            "PATCH",
            "/machine-config",
            json!({}),
            "Empty PATCH request.",
        ),
        (
            "PUT",
            "/drives/rootfs",
            drive("rootfs", true, "foo.bar"),
            "Error manipulating the backing file: No such file or directory (os error 2) foo.bar",
        ),
        (
            "PUT",
            "/drives/a",
            drive("b", false, &disk),
            "The id from the path does not match the id from the body!",
        ),
        (
            "PUT",
            "/drives/a-b",
            drive("a-b", false, &disk),
            "API Resource IDs can only contain alphanumeric characters and underscores.",
        ),
        (
            "PUT",
            "/network-interfaces/1",
            json!({"iface_id": "1", "host_dev_name": "a/b", "guest_mac": "06:00:00:00:00:01"}),
            "Could not create the network device",
        ),
        (
            "PUT",
            "/network-interfaces/1",
            json!({"iface_id": "1", "host_dev_name": "tap0", "guest_mac": "06:00"}),
            "invalid MAC address",
        ),
        (
            "PUT",
            "/actions",
            json!({"action_type": "foo"}),
            "unknown variant `foo`",
        ),
        (
            "PUT",
            "/actions",
            json!({"action_type": "SendCtrlAltDel"}),
            BEFORE_START,
        ),
        (
            "PUT",
            "/actions",
            json!({"action_type": "Reset"}),
            BEFORE_START,
        ),
        ("PATCH", "/vm", json!({"state": "Paused"}), BEFORE_START),
        (
            "PATCH",
            "/drives/a",
            json!({"drive_id": "a", "is_read_only": false}),
            "unknown field `is_read_only`",
        ),
        (
            "PATCH",
            "/drives/a",
            json!({"drive_id": "a", "path_on_host": "x"}),
            BEFORE_START,
        ),
        (
            "PUT",
            "/actions",
            json!({"action_type": "InstanceStart"}),
            "Cannot start microvm without kernel configuration.",
        ),
        (
            "PUT",
            "/vsock",
            json!({"guest_cid": 3, "uds_path": "v"}),
            "not supported",
        ),
        (
            "PUT",
            "/nowhere",
            json!({}),
            "Invalid request method and/or path: PUT nowhere.",
        ),
    ];
    for (method, target, body, text) in cases {
        let fault = vmm.fault(method, target, &body);
        assert!(fault.contains(text), "{method} {target} {body}: {fault}");
    }
    vmm.put("/drives/root", &drive("root", true, &disk));
    let second = vmm.fault("PUT", "/drives/other", &drive("other", true, &disk));
    assert!(
        second.contains("A root block device already exists!"),
        "{second}"
    );
}

#[test]
fn the_bytes_of_answers_are_firecrackers() {
    let vmm = Vmm::start();
    let empty = vmm.raw(
        "PATCH /machine-config HTTP/1.1\r\nConnection: close\r\nContent-Length: 17\r\n\r\n\
         {\"vcpu_count\": 2}",
    );
    assert_eq!(
        empty,
        "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: close\r\n\r\n"
    );
    let refused = vmm.raw("GET /balloon HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 400 \r\n"), "{refused}");
    assert!(refused.ends_with(
        "\r\n\r\n{\"fault_message\":\"Invalid request method and/or path: GET balloon.\"}"
    ));
    let deprecated = vmm.raw(
        "PATCH /machine-config HTTP/1.1\r\nConnection: close\r\nContent-Length: 24\r\n\r\n\
         {\"cpu_template\": \"None\"} ",
    );
    assert!(
        deprecated.contains("\r\nDeprecation: true\r\n"),
        "{deprecated}"
    );
    let large = vmm.raw("PUT /drives/a HTTP/1.1\r\nContent-Length: 51201\r\n\r\n");
    assert!(large.starts_with("HTTP/1.1 413 \r\n"), "{large}");
}
