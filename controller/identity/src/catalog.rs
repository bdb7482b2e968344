//! What services there are and where: one region, one base URL, a prefix each.
//!
//! The catalogue follows from the configuration, so it has no rows, and its ids are made from
//! names (UUID version 5): every controller gives the same. A service is listed when it
//! answers, not before.

use serde_json::{Value, json};
use uuid::Uuid;

/// A service: type, name, and its path on the base URL.
#[derive(Clone, Copy, Debug)]
pub struct ServiceEntry {
    /// `compute`
    pub kind: &'static str,
    /// `nova`
    pub name: &'static str,
    /// `/compute/v2.1`
    pub path: &'static str,
}

/// All of them.
pub const SERVICES: &[ServiceEntry] = &[
    ServiceEntry {
        kind: "compute",
        name: "nova",
        path: "/compute/v2.1",
    },
    ServiceEntry {
        kind: "identity",
        name: "keystone",
        path: "/identity",
    },
    ServiceEntry {
        kind: "image",
        name: "glance",
        path: "/image",
    },
    ServiceEntry {
        kind: "network",
        name: "neutron",
        path: "/network",
    },
];

const INTERFACES: [&str; 3] = ["admin", "internal", "public"];

impl ServiceEntry {
    /// Its id, the same on every controller.
    pub fn id(&self) -> String {
        Uuid::new_v5(&Uuid::NAMESPACE_URL, self.kind.as_bytes())
            .simple()
            .to_string()
    }

    fn endpoint_id(&self, interface: &str) -> String {
        Uuid::new_v5(
            &Uuid::NAMESPACE_URL,
            format!("{}/{interface}", self.kind).as_bytes(),
        )
        .simple()
        .to_string()
    }
}

/// The catalogue as a token holds it.
pub fn in_token(base_url: &str, region: &str) -> Value {
    SERVICES
        .iter()
        .map(|service| {
            let endpoints: Vec<Value> = INTERFACES
                .iter()
                .map(|interface| {
                    json!({
                        "id": service.endpoint_id(interface),
                        "interface": interface,
                        "region": region,
                        "region_id": region,
                        "url": format!("{base_url}{}", service.path),
                    })
                })
                .collect();
            json!({
                "id": service.id(), "type": service.kind, "name": service.name,
                "endpoints": endpoints,
            })
        })
        .collect()
}

/// `GET /v3/endpoints`
pub fn endpoints(base_url: &str, region: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for service in SERVICES {
        for interface in INTERFACES {
            let id = service.endpoint_id(interface);
            all.push(json!({
                "links": {"self": format!("{base_url}/identity/v3/endpoints/{id}")},
                "id": id,
                "service_id": service.id(),
                "interface": interface,
                "region": region,
                "region_id": region,
                "enabled": true,
                "url": format!("{base_url}{}", service.path),
            }));
        }
    }
    all
}

/// `GET /v3/services`
pub fn services(base_url: &str) -> Vec<Value> {
    SERVICES
        .iter()
        .map(|s| {
            json!({
                "id": s.id(), "type": s.kind, "name": s.name, "enabled": true, "description": "",
                "links": {"self": format!("{base_url}/identity/v3/services/{}", s.id())},
            })
        })
        .collect()
}
