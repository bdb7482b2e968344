//! The HTTP API as a client sees it: the program is started, no guest is.
//!
//! The texts are Firecracker's, from its own functional tests (`tests/integration_tests/functional/
//! test_api.py`) and API server; clients match their stems.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use berth_vmm_api::{
    ActionType, Client, ClientError, ExitCode, ExitReason, FullVmConfig, InstanceInfo, Phase,
    VmState, VmmStatus,
};
use serde_json::{Value, json};
use tempfile::TempDir;

mod refusals;

/// A VMM without a guest; killed and cleaned up with the value.
struct Vmm {
    child: Child,
    dir: TempDir,
}

impl Vmm {
    fn start() -> Vmm {
        Vmm::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Vmm {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_berth-vmm"))
            .args(["--id", "vm-1", "--level", "Info"])
            .arg("--api-sock")
            .arg(dir.path().join("api"))
            .arg("--status-file")
            .arg(dir.path().join("status"))
            .arg("--log-path")
            .arg(dir.path().join("log"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let vmm = Vmm { child, dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(vmm.path("api")).is_err() {
            assert!(Instant::now() < deadline, "no socket: {}", vmm.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        vmm
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: u64) -> String {
        File::create(self.path(name))
            .unwrap()
            .set_len(bytes)
            .unwrap();
        self.path(name).display().to_string()
    }

    fn client(&self) -> Client {
        Client::new(self.path("api"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The fault of a request that must be refused.
    fn fault(&self, method: &str, target: &str, body: &Value) -> String {
        let result = match method {
            "PUT" => self.client().put(target, body),
            "PATCH" => self.client().patch(target, body),
            other => panic!("{other}"),
        };
        match result {
            Err(ClientError::Fault {
                status: 400, fault, ..
            }) => fault,
            other => panic!("{method} {target} {body}: {other:?}"),
        }
    }

    fn put(&self, target: &str, body: &Value) {
        self.client().put(target, body).unwrap();
    }

    /// Sends bytes as they are; what comes back until the VMM closes.
    fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.path("api")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn wait(&mut self) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(
                Instant::now() < deadline,
                "the VMM does not end: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_vmm_says_who_it_is() {
    let vmm = Vmm::start();
    let info: InstanceInfo = vmm.client().get("/").unwrap();
    assert_eq!(
        (info.id.as_str(), info.state),
        ("vm-1", VmState::NotStarted)
    );
    let raw: Value = vmm.client().get("/").unwrap();
    assert_eq!(raw["state"], "Not started");
    let version: Value = vmm.client().get("/version").unwrap();
    assert_eq!(version["firecracker_version"], info.vmm_version.as_str());
}

#[test]
fn the_full_configuration_is_firecrackers_object() {
    let vmm = Vmm::start();
    let kernel = vmm.file("vmlinux", 64);
    let disk = vmm.file("rootfs", 4096);
    vmm.put(
        "/machine-config",
        &json!({"vcpu_count": 2, "mem_size_mib": 256}),
    );
    vmm.put(
        "/boot-source",
        &json!({"kernel_image_path": kernel, "boot_args": ""}),
    );
    vmm.put(
        "/drives/rootfs",
        &json!({"drive_id": "rootfs", "path_on_host": disk, "is_root_device": true,
                "is_read_only": true, "io_engine": "Sync"}),
    );
    let config: Value = vmm.client().get("/vm/config").unwrap();
    assert_eq!(
        config,
        json!({
            "machine-config": {"vcpu_count": 2, "mem_size_mib": 256, "smt": false,
                "track_dirty_pages": false, "huge_pages": "None"},
            "cpu-config": null,
            "boot-source": {"boot_args": "", "kernel_image_path": kernel, "initrd_path": null},
            "drives": [{"drive_id": "rootfs", "partuuid": null, "is_root_device": true,
                "cache_type": "Unsafe", "is_read_only": true, "path_on_host": disk,
                "rate_limiter": null, "io_engine": "Sync", "socket": null}],
            "pmem": [], "balloon": null, "vsock": null, "memory-hotplug": null,
            "network-interfaces": [], "logger": null, "metrics": null, "mmds-config": null,
            "entropy": null,
        })
    );
    let _typed: FullVmConfig = vmm.client().get("/vm/config").unwrap();
}

#[test]
fn a_client_may_use_one_connection_for_many_requests() {
    let vmm = Vmm::start();
    let answers = vmm.raw(
        "GET / HTTP/1.1\r\n\r\nGET /version HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nConnection: \
         close\r\n\r\n",
    );
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 3, "{answers}");
}

#[test]
fn a_silent_client_costs_the_others_nothing() {
    let vmm = Vmm::start();
    let _silent: Vec<_> = (0..10)
        .map(|_| UnixStream::connect(vmm.path("api")).unwrap())
        .collect();
    let mut half = UnixStream::connect(vmm.path("api")).unwrap();
    half.write_all(b"PUT /actions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        .unwrap();
    assert_eq!(vmm.client().info().unwrap().state, VmState::NotStarted);
}

#[test]
fn a_crowd_of_silent_clients_is_bounded_and_leaves_its_room_when_it_goes() {
    const MOST: usize = 32;
    let vmm = Vmm::start();
    // Those of `Vmm::start`, which looked for the socket, have gone by now or soon.
    vmm.client().info().unwrap();
    let crowd: Vec<_> = (0..2 * MOST)
        .map(|_| UnixStream::connect(vmm.path("api")).unwrap())
        .collect();
    let is_closed = |mut stream: &UnixStream| {
        stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        matches!(stream.read(&mut [0]), Ok(0))
    };
    let closed = crowd.iter().filter(|stream| is_closed(stream)).count();
    assert!(closed >= MOST, "{closed} of {} are closed", crowd.len());
    assert!(vmm.client().info().is_err(), "no place is left");
    drop(crowd);
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = vmm.client().info() {
        assert!(Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_corrupt_kernel_is_named_and_can_be_replaced() {
    let mut vmm = Vmm::start();
    let kernel = vmm.path("vmlinux");
    std::fs::write(&kernel, b"#!/bin/sh\necho no kernel\n").unwrap();
    vmm.put("/boot-source", &json!({"kernel_image_path": kernel}));
    let fault = vmm.fault("PUT", "/actions", &json!({"action_type": "InstanceStart"}));
    if fault.contains("/dev/kvm") {
        eprintln!("skipped: no KVM on this machine");
        return;
    }
    let named = format!(
        "kernel {}: is neither an ELF nor a bzImage",
        kernel.display()
    );
    assert!(fault.contains(&named), "{fault}");
    assert_eq!(vmm.client().info().unwrap().state, VmState::NotStarted);
    let status = VmmStatus::read(&vmm.path("status")).unwrap();
    assert_eq!(status.error.as_deref(), Some(fault.as_str()));
    vmm.put(
        "/boot-source",
        &json!({"kernel_image_path": vmm.file("other", 4096)}),
    );
    vmm.client().action(ActionType::Stop).unwrap();
    assert_eq!(vmm.wait(), ExitCode::Ok as i32);
}

#[test]
fn a_request_id_is_on_the_lines_of_its_request() {
    let vmm = Vmm::start_with(&["--request-id", "req-start"]);
    let client = vmm.client().with_request_id("req-77");
    let body = json!({"kernel_image_path": "foo.bar"});
    assert!(client.put("/boot-source", &body).is_err());
    let log = vmm.log();
    assert!(log.contains("[vm-1] request_id=req-start "), "{log}");
    let line = log.lines().find(|line| line.contains("foo.bar")).unwrap();
    assert!(line.starts_with("[vm-1] request_id=req-77 "), "{line}");
}

#[test]
fn stopping_ends_the_process_in_order() {
    let mut vmm = Vmm::start();
    vmm.client().action(ActionType::Stop).unwrap();
    assert_eq!(vmm.wait(), ExitCode::Ok as i32);
    let status = VmmStatus::read(&vmm.path("status")).unwrap();
    assert_eq!(
        (status.phase, status.reason),
        (Phase::Exited, Some(ExitReason::ApiStop))
    );
    assert!(!vmm.path("api").exists());
}

#[test]
fn sigterm_ends_the_process_in_order_and_sighup_does_not() {
    let mut vmm = Vmm::start();
    let pid = nix::unistd::Pid::from_raw(vmm.child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGHUP).unwrap();
    assert_eq!(vmm.client().info().unwrap().state, VmState::NotStarted);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).unwrap();
    assert_eq!(vmm.wait(), ExitCode::Ok as i32);
    let status = VmmStatus::read(&vmm.path("status")).unwrap();
    assert_eq!(status.reason, Some(ExitReason::Signal));
}

#[test]
fn a_socket_in_use_is_refused_and_one_left_behind_is_replaced() {
    let vmm = Vmm::start();
    let second = Command::new(env!("CARGO_BIN_EXE_berth-vmm"))
        .arg("--api-sock")
        .arg(vmm.path("api"))
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(ExitCode::GenericError as i32));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("cannot listen on the API socket"), "{text}");
    assert!(vmm.client().info().is_ok());
    let left = vmm.path("left");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let mut third = Command::new(env!("CARGO_BIN_EXE_berth-vmm"))
        .args(["--level", "Error"])
        .arg("--api-sock")
        .arg(&left)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while Client::new(&left).info().is_err() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    Client::new(&left).action(ActionType::Stop).unwrap();
    third.wait().unwrap();
}

#[test]
fn wrong_command_lines_and_files_have_their_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_berth-vmm"))
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, text) = run(&["--foo"]);
    assert_eq!(code, Some(ExitCode::ArgParsing as i32));
    assert!(text.contains("--foo"), "{text}");
    let config = dir.path().join("config");
    let name = config.display().to_string();
    let status = dir.path().join("status").display().to_string();
    let arguments = ["--no-api", "--config-file", &name, "--status-file", &status];
    for (contents, expected) in [
        ("{", "invalid JSON"),
        (
            r#"{"boot-source":{"kernel_image_path":"/nonexistent"}}"#,
            "/nonexistent",
        ),
        (
            r#"{"boot-source":{"kernel_image_path":"/dev/null"},"vsock":{}}"#,
            "vsock",
        ),
    ] {
        std::fs::write(&config, contents).unwrap();
        let (code, text) = run(&arguments);
        assert_eq!(code, Some(ExitCode::BadConfiguration as i32), "{text}");
        assert!(text.contains(expected), "{text}");
        let status = VmmStatus::read(status.as_ref()).unwrap();
        assert_eq!((status.phase, status.exit_code), (Phase::Exited, Some(152)));
        assert!(status.error.unwrap().contains(expected));
    }
}
