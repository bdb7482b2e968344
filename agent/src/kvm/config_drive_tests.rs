//! The config drive, as a guest reads it.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kvm::tests::{address, port, spec};

fn json_of(files: &[(&'static str, Vec<u8>)], name: &str) -> Value {
    let (_, bytes) = files.iter().find(|(n, _)| *n == name).unwrap();
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn meta_data_carries_identity_and_keys_in_both_forms() {
    let mut spec = spec();
    spec.name = "My_Web Server.Ä".into();
    spec.config_drive.public_keys = vec![("k".into(), "ssh-ed25519 AAAA".into())];
    let meta = json_of(&files(&spec).unwrap(), "meta_data.json");
    assert_eq!(meta["uuid"], spec.instance_id.to_string());
    assert_eq!(meta["hostname"], "my-web-server");
    assert_eq!(meta["name"], spec.name);
    assert_eq!(meta["launch_index"], 0);
    assert_eq!(meta["public_keys"]["k"], "ssh-ed25519 AAAA");
    assert_eq!(meta["keys"][0]["type"], "ssh");
}

#[test]
fn each_server_of_a_request_has_its_number_and_the_name_that_the_api_shows() {
    let mut spec = spec();
    spec.name = "ber-2".into();
    spec.config_drive.display_name = "Über-2".into();
    spec.config_drive.launch_index = 1;
    let meta = json_of(&files(&spec).unwrap(), "meta_data.json");
    assert_eq!(meta["name"], "Über-2");
    assert_eq!(meta["hostname"], "ber-2");
    assert_eq!(meta["launch_index"], 1);
}

#[test]
fn network_data_tells_dhcp_from_static_addresses() {
    let mut spec = spec();
    spec.ports = vec![
        port(1, vec![address("10.0.0.5", true)]),
        port(2, vec![address("10.0.1.5", false)]),
    ];
    let data = json_of(&files(&spec).unwrap(), "network_data.json");
    assert_eq!(data["links"][1]["ethernet_mac_address"], spec.ports[1].mac);
    assert_eq!(data["networks"][0]["type"], "ipv4_dhcp");
    let fixed = &data["networks"][1];
    assert_eq!(fixed["link"], data["links"][1]["id"]);
    assert_eq!(
        (&fixed["type"], &fixed["netmask"]),
        (&json!("ipv4"), &json!("255.255.255.0"))
    );
    assert_eq!(fixed["routes"][0]["gateway"], "10.0.0.1");
}

#[test]
fn user_data_is_unpacked_and_rubbish_is_refused() {
    let mut spec = spec();
    spec.config_drive.user_data = Some("IyEvYmluL3No\n".into());
    let files_ = files(&spec).unwrap();
    assert_eq!(
        files_.iter().find(|(n, _)| *n == "user_data").unwrap().1,
        b"#!/bin/sh"
    );
    spec.config_drive.user_data = Some("?".into());
    assert!(files(&spec).unwrap_err().to_string().contains("base64"));
}

#[tokio::test]
async fn the_drive_is_an_iso_with_the_label_and_long_names() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), &spec()).await.unwrap();
    make(folder.path(), &spec()).await.unwrap();
    let bytes = fs::read(path(folder.path())).unwrap();
    // ISO 9660: the primary volume descriptor is at sector 16, the label 40 bytes into it.
    assert_eq!(&bytes[32_769..32_774], b"CD001");
    assert_eq!(&bytes[32_808..32_816], b"config-2");
    // Rock Ridge keeps the name as it is.
    let name = b"network_data.json";
    assert!(bytes.windows(name.len()).any(|window| window == name));
    assert!(!folder.path().join("config-drive").exists());
}

#[test]
fn netmasks_of_every_length() {
    assert_eq!(netmask(false, 0), "0.0.0.0");
    assert_eq!(netmask(false, 20), "255.255.240.0");
    assert_eq!(netmask(false, 32), "255.255.255.255");
    assert_eq!(netmask(true, 64), "ffff:ffff:ffff:ffff::");
}
