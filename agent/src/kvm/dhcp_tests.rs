//! What dnsmasq is told.
#![allow(clippy::unwrap_used)]

use super::*;
use berth_rpc_types::link::{HostPort, HostSubnet};
use berth_rpc_types::{PortId, VmmId};

fn network() -> HostNetwork {
    HostNetwork {
        id: NetworkId::from_u128(1),
        network_type: "flat".into(),
        physical_network: None,
        mtu: 1450,
        subnets: vec![HostSubnet {
            cidr: "10.0.0.0/24".into(),
            gateway: Some("10.0.0.1".parse().unwrap()),
            dns: vec!["9.9.9.9".parse().unwrap()],
            dhcp: true,
            dhcp_address: Some("10.0.0.2".parse().unwrap()),
        }],
        ports: vec![HostPort {
            id: PortId::from_u128(1),
            vmm_id: VmmId::from_u128(1),
            mac: "06:00:00:00:00:01".into(),
            addresses: vec!["10.0.0.5".parse().unwrap()],
            hostname: Some("web".into()),
            active: true,
        }],
    }
}

#[test]
fn only_known_ports_are_served_with_their_own_address() {
    let network = network();
    let server = DhcpServer::new(Path::new("/n"), &network);
    assert_eq!(server.hosts(), "06:00:00:00:00:01,10.0.0.5,web,3600\n");
    let text = server.configuration("bbx").unwrap().unwrap();
    for line in [
        "interface=bbx",
        "port=0",
        "dhcp-ignore=tag:!known",
        "dhcp-range=set:s0,10.0.0.0,static,255.255.255.0,3600",
        "dhcp-option=tag:s0,option:router,10.0.0.1",
        "dhcp-option=option:mtu,1450",
    ] {
        assert!(
            text.lines().any(|l| l == line),
            "{line} is missing in\n{text}"
        );
    }
    assert!(!text.contains("authoritative"));
}

#[test]
fn a_lease_ends_when_its_address_is_another_ports() {
    let hosts = "06:00:00:00:00:01,10.0.0.5,web,3600\n06:00:00:00:00:02,10.0.0.6,3600\n";
    let own = "1767323045 06:00:00:00:00:01 10.0.0.5 web ff:01\n";
    let nobodys = "1767323045 06:00:00:00:00:09 10.0.0.9 * *\n";
    let inherited = "1767323045 06:00:00:00:00:03 10.0.0.6 gone ff:03\n";
    assert_eq!(without_heirs("", hosts), None);
    assert_eq!(without_heirs(&format!("{own}{nobodys}"), hosts), None);
    assert_eq!(
        without_heirs(&format!("{own}{inherited}{nobodys}"), hosts),
        Some(format!("{own}{nobodys}"))
    );
    let rubbish = "duid 00:01\n\n";
    assert_eq!(without_heirs(rubbish, hosts), None);
}

#[test]
fn a_name_that_is_no_label_never_reaches_the_file() {
    let mut network = network();
    network.ports[0].hostname = Some("x,set:evil\n66:00:00:00:00:00,10.0.0.9".into());
    let server = DhcpServer::new(Path::new("/n"), &network);
    assert_eq!(server.hosts(), "06:00:00:00:00:01,10.0.0.5,3600\n");
}

#[test]
fn a_mac_that_is_none_never_reaches_the_file() {
    for mac in [
        "",
        "06:00:00:00:00:01\n06:00:00:00:00:02,10.0.0.9",
        "06:00:00:00:00:*",
        "id:*",
        "set:evil",
    ] {
        let mut network = network();
        network.ports[0].mac = mac.into();
        let server = DhcpServer::new(Path::new("/n"), &network);
        assert_eq!(server.hosts(), "", "{mac:?}");
    }
}

#[test]
fn without_dhcp_there_is_no_server() {
    let mut network = network();
    network.subnets[0].dhcp = false;
    let server = DhcpServer::new(Path::new("/n"), &network);
    assert!(server.configuration("bbx").unwrap().is_none());
    network.subnets[0].cidr = "rubbish".into();
    let server = DhcpServer::new(Path::new("/n"), &network);
    assert!(matches!(
        server.configuration("bbx"),
        Err(NetworkError::Cidr(_))
    ));
}
